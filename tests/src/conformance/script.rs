//! What the kit does, in order. A step takes the request that waits for its answer and leaves the next one; a step that
//! does not get that far ends the script, and what comes after it is not reached.

use std::time::Duration;

use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::envelope::Key;
use simquota_shared::ids::Text;
use simquota_shared::message::{Body, CreditAnswer, FinalAction, Kind, Outcome as Settled, Reason};
use simquota_shared::topic::Down;
use simquota_shared::units::{Epoch, Octets, Push, RequestNumber};

use super::cloud::{Asked, Cloud, Heard};
use super::rules::{Outcome, Report, Rule};

/// The validity of the grant whose end is looked at, and how long its answer is held back.
const SHORT_S: u64 = 10;
const HELD_BACK: Duration = Duration::from_secs(5);
/// What a slow machine and a coarse meter may add.
const SLACK: Duration = Duration::from_secs(2);
/// How long traffic may go on beyond a ceiling before the request there is answered.
const BEYOND: Duration = Duration::from_secs(4);
/// The holding time that is granted, and how soon after traffic that was seen a device has surely not waited for it.
const HOLD_S: u64 = 4;
const HASTE: Duration = Duration::from_millis(2_500);
/// How long something that must not happen is waited for.
const QUIET: Duration = Duration::from_millis(1500);

/// The request that waits now; none when the device fell silent.
type Next = anyhow::Result<Option<Asked>>;
type Step = fn(&mut Cloud, Asked) -> Next;

/// Plays all of it.
pub(super) fn play(cloud: &mut Cloud) -> anyhow::Result<Report> {
    let steps: [Step; 20] = [
        repeats_request,
        plain_grant,
        repeated_answer,
        forged_answer,
        other_epoch,
        older_number,
        rubbish,
        busy,
        keeps_ceiling,
        push,
        silence,
        restrict,
        throttle,
        validity,
        holding,
        revoke,
        command_order,
        unknown_epoch,
        usage_was_resent,
        new_epoch,
    ];
    let mut waiting = begin(cloud)?;
    for step in steps {
        match waiting {
            Some(asked) => waiting = step(cloud, asked)?,
            None => break,
        }
    }
    // Nothing was heard that is not so.
    if !cloud.report.broken(Rule::Sealed) && cloud.registered.is_some() {
        cloud.keep(Rule::Sealed);
    }
    Ok(cloud.report.clone())
}

/// The registration is answered at its second coming.
fn begin(cloud: &mut Cloud) -> Next {
    let register = |heard: &Heard| match heard {
        Heard::Register(request, octets) => Some((request.clone(), octets.clone())),
        _ => None,
    };
    let Some((_, first)) = cloud.until(2 * cloud.wait, register)? else {
        cloud.broke(Rule::RegistersFirst, "no registration came");
        return Ok(None);
    };
    let Some((request, again)) = cloud.until(cloud.wait, register)? else {
        cloud.broke(Rule::RepeatsRegistration, "it came once");
        return Ok(None);
    };
    if first == again {
        cloud.keep(Rule::RepeatsRegistration);
    } else {
        cloud.broke(Rule::RepeatsRegistration, "it came with other octets");
    }
    cloud.keep(Rule::RegistersFirst);
    cloud.accept(&request)?;
    let Some(asked) = cloud.asked(cloud.wait)? else {
        cloud.broke(Rule::Initial, "no request came after the registration");
        return Ok(None);
    };
    let (kind, reason) = (asked.request.kind, asked.request.reason);
    if kind == Kind::Initial && reason == Reason::BOOT {
        cloud.keep(Rule::Initial);
    } else {
        cloud.broke(Rule::Initial, format!("{kind:?}, reason {}", reason.0));
    }
    // Usage of the first grant is not acknowledged until it came twice.
    cloud.withheld = Some(None);
    Ok(Some(asked))
}

/// The first request is answered at its second coming.
fn repeats_request(cloud: &mut Cloud, asked: Asked) -> Next {
    let number = asked.request.number;
    let again = cloud.until(cloud.wait, |heard| match heard {
        Heard::Credit(request, octets) if request.number == number => Some(octets.clone()),
        _ => None,
    })?;
    match again {
        Some(octets) if octets == asked.octets => cloud.keep(Rule::RepeatsRequest),
        Some(_) => cloud.broke(
            Rule::RepeatsRequest,
            format!("number {number} came with other octets"),
        ),
        None => cloud.broke(Rule::RepeatsRequest, format!("number {number} came once")),
    }
    Ok(Some(asked))
}

/// Grants so much more, and waits until all of it is used: then the device asks, at the ceiling and not beyond.
fn granted(cloud: &mut Cloud, asked: &Asked, rule: Rule, times: usize) -> Next {
    let from = cloud.ceiling.max(asked.request.used);
    let answer = cloud.answer_to(&asked.request, Octets(from.0.saturating_add(cloud.grant)));
    for _ in 0..times {
        cloud.answer(answer.clone())?;
    }
    used_up(cloud, rule)
}

fn used_up(cloud: &mut Cloud, rule: Rule) -> Next {
    let next = cloud.asked(cloud.wait)?;
    let ceiling = cloud.ceiling;
    match &next {
        Some(next) if next.request.used > ceiling => {
            let why = format!("{} used under a ceiling of {ceiling}", next.request.used);
            cloud.broke(rule, why);
            // From here on its word is taken, so that what follows is seen for itself.
            cloud.ceiling = next.request.used;
        }
        Some(next) if next.request.used < ceiling => {
            cloud.broke(
                rule,
                format!(
                    "it asks with {} used, the ceiling is {ceiling}",
                    next.request.used
                ),
            );
        }
        Some(_) => cloud.keep(rule),
        None => cloud.broke(rule, format!("no request came at the ceiling of {ceiling}")),
    }
    Ok(next)
}

fn plain_grant(cloud: &mut Cloud, asked: Asked) -> Next {
    granted(cloud, &asked, Rule::StopsAtCeiling, 1)
}

fn repeated_answer(cloud: &mut Cloud, asked: Asked) -> Next {
    granted(cloud, &asked, Rule::RepeatedAnswer, 3)
}

/// Something that would grant far more, before what counts.
fn tempt(
    cloud: &mut Cloud,
    asked: &Asked,
    key: Option<&Key>,
    change: impl FnOnce(&mut CreditAnswer),
) -> anyhow::Result<()> {
    let far = cloud
        .ceiling
        .0
        .saturating_add(cloud.grant.saturating_mul(10));
    let mut answer = cloud.answer_to(&asked.request, Octets(far));
    change(&mut answer);
    let payload = codec::encode(&answer)?;
    cloud.say_under(key.unwrap_or(cloud.key()), Down::Credit, &payload)?;
    cloud.pass(QUIET)
}

fn forged_answer(cloud: &mut Cloud, asked: Asked) -> Next {
    tempt(cloud, &asked, Some(&Key::new([0x5a; 32])), |_| {})?;
    granted(cloud, &asked, Rule::ForgedAnswer, 1)
}

fn other_epoch(cloud: &mut Cloud, asked: Asked) -> Next {
    tempt(cloud, &asked, None, |answer| {
        answer.epoch = Epoch(answer.epoch.0 ^ 1);
    })?;
    granted(cloud, &asked, Rule::OtherEpoch, 1)
}

fn older_number(cloud: &mut Cloud, asked: Asked) -> Next {
    tempt(cloud, &asked, None, |answer| {
        answer.number = RequestNumber(answer.number.0.saturating_sub(1));
    })?;
    granted(cloud, &asked, Rule::OlderNumber, 1)
}

/// What no device should stumble over.
fn rubbish(cloud: &mut Cloud, asked: Asked) -> Next {
    let right = codec::encode(&cloud.answer_to(&asked.request, cloud.ceiling))?;
    let mut version = right.clone();
    if let Some(octet) = version.get_mut(1) {
        *octet = 0;
    }
    let short = right
        .get(..right.len().saturating_sub(1))
        .unwrap_or_default();
    for payload in [version.as_slice(), short, &[0x9f, 0xff], &[0x81; 40], b""] {
        let key = cloud.key();
        cloud.say_under(key, Down::Credit, payload)?;
    }
    for octets in [vec![0xff; 3], vec![0xd1, 0x84], vec![0; 70_000], Vec::new()] {
        cloud.say_raw(Down::Credit, octets)?;
    }
    cloud.pass(QUIET)?;
    granted(cloud, &asked, Rule::Rubbish, 1)
}

fn busy(cloud: &mut Cloud, asked: Asked) -> Next {
    let answer = CreditAnswer {
        code: Code::TOO_BUSY,
        valid_until: None,
        retry_s: Some(1),
        ..cloud.answer_to(&asked.request, cloud.ceiling)
    };
    cloud.say(Down::Credit, &answer)?;
    let number = asked.request.number;
    let again = cloud.until(cloud.wait, |heard| match heard {
        Heard::Credit(request, octets) if request.number >= number => Some(octets.clone()),
        _ => None,
    })?;
    match again {
        Some(octets) if octets == asked.octets => cloud.keep(Rule::Busy),
        Some(_) => cloud.broke(Rule::Busy, "it came with other octets"),
        None => cloud.broke(Rule::Busy, "it did not come again"),
    }
    Ok(Some(asked))
}

/// At the threshold the answer names a lower ceiling: the device has the one that it has.
fn keeps_ceiling(cloud: &mut Cloud, asked: Asked) -> Next {
    let from = cloud.ceiling.max(asked.request.used);
    let twice = Octets(from.0.saturating_add(2 * cloud.grant));
    let answer = CreditAnswer {
        renew_below: Octets(cloud.grant),
        ..cloud.answer_to(&asked.request, twice)
    };
    cloud.answer(answer)?;
    let Some(low) = cloud.asked(cloud.wait)? else {
        cloud.broke(Rule::KeepsCeiling, "no request came at the threshold");
        return Ok(None);
    };
    if low.request.kind != Kind::Update || low.request.reason != Reason::THRESHOLD {
        let why = format!(
            "at the threshold: {:?}, reason {}",
            low.request.kind, low.request.reason.0
        );
        cloud.broke(Rule::KeepsCeiling, why);
    }
    let refusal = CreditAnswer {
        code: Code::CREDIT_LIMIT_REACHED,
        ..cloud.answer_to(&low.request, from)
    };
    cloud.answer(refusal)?;
    used_up(cloud, Rule::KeepsCeiling)
}

/// Refused, then told unasked that there is more.
fn push(cloud: &mut Cloud, asked: Asked) -> Next {
    let refusal = CreditAnswer {
        code: Code::CREDIT_LIMIT_REACHED,
        final_unit: Some(FinalAction::Terminate),
        balance: Octets::ZERO,
        ..cloud.answer_to(&asked.request, cloud.ceiling)
    };
    cloud.answer(refusal.clone())?;
    cloud.pass(QUIET)?;
    let more = Octets(cloud.ceiling.0.saturating_add(cloud.grant));
    let pushed = CreditAnswer {
        push: Push(1),
        code: Code::SUCCESS,
        ceiling: more,
        stop: more,
        final_unit: None,
        ..refusal.clone()
    };
    cloud.say(Down::Credit, &pushed)?;
    cloud.ceiling = more;
    // A repeat of the answer that it follows is older than it.
    cloud.say(Down::Credit, &refusal)?;
    used_up(cloud, Rule::Push)
}

/// A grant without end in octets, whose answer comes late: its validity has run since the request was sent.
fn validity(cloud: &mut Cloud, asked: Asked) -> Next {
    cloud.pass(HELD_BACK)?;
    let endless = Octets(cloud.ceiling.0.saturating_add(1_000_000_000_000));
    let mut answer = cloud.answer_to(&asked.request, endless);
    answer.valid_until = answer.decided.plus_s(SHORT_S);
    cloud.answer(answer)?;
    let limit = Duration::from_secs(2 * SHORT_S) + HELD_BACK;
    let Some(next) = cloud.asked(limit)? else {
        cloud.broke(Rule::Validity, "no request came at its end");
        return Ok(None);
    };
    let after = next.at.duration_since(asked.at);
    if after > Duration::from_secs(SHORT_S) + SLACK {
        let why = format!("asked {after:.1?} after the first sending, valid for {SHORT_S} s");
        cloud.broke(Rule::Validity, why);
    } else {
        cloud.keep(Rule::Validity);
    }
    Ok(Some(next))
}

/// A grant that may go on beyond its ceiling, in some way and never further than one grant more. Its request at the
/// ceiling is answered late, and by so much; what was used until then is in the next one.
fn beyond(
    cloud: &mut Cloud,
    asked: &Asked,
    rule: Rule,
    change: impl FnOnce(&mut CreditAnswer, Octets),
) -> Next {
    let ceiling = Octets(
        cloud
            .ceiling
            .max(asked.request.used)
            .0
            .saturating_add(cloud.grant),
    );
    let further = Octets(ceiling.0.saturating_add(cloud.grant));
    let mut answer = cloud.answer_to(&asked.request, ceiling);
    change(&mut answer, further);
    cloud.beyond = Some(rule);
    cloud.answer(answer)?;
    let Some(waiting) = cloud.asked(cloud.wait)? else {
        cloud.broke(rule, format!("no request came at the ceiling of {ceiling}"));
        return Ok(None);
    };
    if waiting.request.used < ceiling {
        let used = waiting.request.used;
        cloud.broke(
            rule,
            format!("it asks with {used} used, the ceiling is {ceiling}"),
        );
    }
    cloud.pass(BEYOND)?;
    let answer = cloud.answer_to(&waiting.request, further);
    cloud.answer(answer)?;
    let next = used_up(cloud, rule)?;
    cloud.beyond = None;
    Ok(next)
}

fn silence(cloud: &mut Cloud, asked: Asked) -> Next {
    beyond(cloud, &asked, Rule::Silence, |answer, further| {
        answer.silence_s = 3600;
        answer.stop = further;
    })
}

fn restrict(cloud: &mut Cloud, asked: Asked) -> Next {
    beyond(cloud, &asked, Rule::Restrict, |answer, further| {
        answer.final_unit = Some(FinalAction::Restrict(vec![Text::clipped("192.0.2.1")]));
        answer.stop = further;
    })
}

/// Eight bit a second, to far beyond: what passes at that pace is not worth a grant.
fn throttle(cloud: &mut Cloud, asked: Asked) -> Next {
    let far = cloud.grant.saturating_mul(1_000);
    beyond(cloud, &asked, Rule::Throttle, |answer, further| {
        answer.final_unit = Some(FinalAction::Throttle(8));
        answer.stop = Octets(further.0.saturating_add(far));
    })
}

/// A grant without end: when the traffic pauses for the holding time all of it comes back.
fn holding(cloud: &mut Cloud, asked: Asked) -> Next {
    let endless = Octets(cloud.ceiling.0.saturating_add(1_000_000_000_000));
    let mut answer = cloud.answer_to(&asked.request, endless);
    answer.valid_until = answer.decided.plus_s(cloud.wait.as_secs() * 5 / 6);
    answer.hold_s = HOLD_S;
    cloud.answer(answer)?;
    let Some(given) = cloud.asked(2 * cloud.wait)? else {
        cloud.broke(Rule::Holding, "no request came at the end of its validity");
        return Ok(None);
    };
    if given.request.kind != Kind::Final {
        // It is a choice, and a pause of the traffic is needed to see it.
        if given.request.reason == Reason::VALIDITY {
            cloud.report.note(Rule::Holding, Outcome::NotOffered);
        } else {
            let why = format!(
                "{:?}, reason {}",
                given.request.kind, given.request.reason.0
            );
            cloud.broke(Rule::Holding, why);
        }
        return Ok(Some(given));
    }
    // Octets passed after the request was made: the holding time began then or later.
    let after = given.at.duration_since(asked.at);
    if given.request.used > asked.request.used && after < HASTE {
        let why = format!("given back {after:.1?} after traffic, to be held for {HOLD_S} s");
        cloud.broke(Rule::Holding, why);
    }
    if given.request.reason != Reason::HOLDING || given.request.held.is_none() {
        let why = format!(
            "reason {}, held {:?}",
            given.request.reason.0, given.request.held
        );
        cloud.broke(Rule::Holding, why);
    }
    let done = CreditAnswer {
        valid_until: None,
        ..cloud.answer_to(&given.request, given.request.used)
    };
    cloud.ceiling = given.request.used;
    cloud.answer(done)?;
    let next = cloud.asked(cloud.wait)?;
    match &next {
        Some(next) if next.request.used > given.request.used => {
            let (used, left) = (next.request.used, given.request.used);
            cloud.broke(Rule::Holding, format!("{used} used, given back at {left}"));
        }
        Some(next) if next.request.kind == Kind::Initial => cloud.keep(Rule::Holding),
        Some(next) => {
            let kind = next.request.kind;
            cloud.broke(Rule::Holding, format!("after it {kind:?}"));
        }
        None => cloud.broke(
            Rule::Holding,
            "it did not ask again, with traffic at the gate",
        ),
    }
    Ok(next)
}

/// Revoked under a grant: the rest comes back by a final, the next packet asks, and the command's repeat does nothing.
fn revoke(cloud: &mut Cloud, asked: Asked) -> Next {
    let from = asked.request.used.max(cloud.ceiling);
    let more = Octets(from.0.saturating_add(cloud.grant));
    let answer = cloud.answer_to(&asked.request, more);
    cloud.answer(answer)?;
    let Some(ack) = cloud.tell(1, Body::Revoke)? else {
        for rule in [Rule::Final, Rule::CommandOnce, Rule::CommandOrder] {
            cloud.report.note(rule, Outcome::NotOffered);
        }
        return cloud.asked(2 * cloud.wait);
    };
    let Some(given) = cloud.asked(cloud.wait)? else {
        cloud.broke(Rule::Final, "no final came");
        return Ok(None);
    };
    let (kind, applied) = (given.request.kind, ack.outcome == Settled::Applied);
    if kind != Kind::Final || !applied || given.request.held.is_none() {
        let why = format!(
            "{:?}, then {kind:?}, held {:?}",
            ack.outcome, given.request.held
        );
        cloud.broke(Rule::Final, why);
    }
    let done = CreditAnswer {
        valid_until: None,
        ..cloud.answer_to(&given.request, given.request.used)
    };
    // What was given back is gone: the axis goes on from the used total.
    cloud.ceiling = given.request.used;
    cloud.answer(done)?;
    let Some(next) = cloud.asked(cloud.wait)? else {
        cloud.broke(
            Rule::Final,
            "it did not ask again, with traffic at the gate",
        );
        return Ok(None);
    };
    let stood = next.request.used == given.request.used;
    if next.request.kind == Kind::Initial && stood {
        cloud.keep(Rule::Final);
    } else {
        let why = format!(
            "after it {:?} with {} used",
            next.request.kind, next.request.used
        );
        cloud.broke(Rule::Final, why);
    }
    let more = Octets(next.request.used.0.saturating_add(cloud.grant));
    let answer = cloud.answer_to(&next.request, more);
    cloud.answer(answer)?;
    let again = cloud.tell(1, Body::Revoke)?.map(|ack| ack.outcome);
    let next = cloud.asked(cloud.wait)?;
    let kind = next.as_ref().map(|next| next.request.kind);
    if again == Some(Settled::Applied) && kind == Some(Kind::Update) {
        cloud.keep(Rule::CommandOnce);
    } else {
        cloud.broke(
            Rule::CommandOnce,
            format!("repeated: {again:?}, then {kind:?}"),
        );
    }
    Ok(next)
}

/// Resume is number 3, and suspend, number 2, comes after it.
fn command_order(cloud: &mut Cloud, asked: Asked) -> Next {
    if cloud.report.not_offered(Rule::CommandOrder) {
        return Ok(Some(asked));
    }
    let more = |cloud: &Cloud, asked: &Asked| {
        let from = cloud.ceiling.max(asked.request.used);
        cloud.answer_to(&asked.request, Octets(from.0.saturating_add(cloud.grant)))
    };
    let resumed = cloud.tell(3, Body::Resume)?.map(|ack| ack.outcome);
    let late = cloud.tell(2, Body::Suspend)?.map(|ack| ack.outcome);
    let answer = more(cloud, &asked);
    cloud.answer(answer)?;
    let next = cloud.asked(cloud.wait)?;
    let gave_up = next
        .as_ref()
        .is_none_or(|next| next.request.kind == Kind::Final);
    if (resumed, late) == (Some(Settled::Applied), Some(Settled::Superseded)) && !gave_up {
        cloud.keep(Rule::CommandOrder);
    } else {
        let kind = next.as_ref().map(|next| next.request.kind);
        let why = format!("resume {resumed:?}, the older suspend {late:?}, then {kind:?}");
        cloud.broke(Rule::CommandOrder, why);
    }
    Ok(next)
}

fn unknown_epoch(cloud: &mut Cloud, asked: Asked) -> Next {
    let answer = CreditAnswer {
        code: Code::UNKNOWN_EPOCH,
        valid_until: None,
        ..cloud.answer_to(&asked.request, Octets::ZERO)
    };
    cloud.say(Down::Credit, &answer)?;
    let registered = cloud.until(cloud.wait, |heard| match heard {
        Heard::Register(request, _) => Some(request.epoch),
        _ => None,
    })?;
    if registered != Some(asked.request.epoch) {
        cloud.broke(Rule::UnknownEpoch, format!("registered: {registered:?}"));
        return Ok(None);
    }
    // What was asked before it may still be on its way.
    let limit = cloud.wait;
    cloud.answered = Some(cloud.answer_to(&asked.request, cloud.ceiling));
    let next = cloud.asked(limit)?;
    match &next {
        Some(next) if next.request.kind == Kind::Initial => cloud.keep(Rule::UnknownEpoch),
        other => {
            let kind = other.as_ref().map(|next| next.request.kind);
            cloud.broke(Rule::UnknownEpoch, format!("then {kind:?}"));
        }
    }
    Ok(next)
}

/// By now usage was reported many times, and its first batch once more.
fn usage_was_resent(cloud: &mut Cloud, asked: Asked) -> Next {
    if cloud.withheld.is_some() {
        cloud.pass(cloud.wait)?;
    }
    match cloud.withheld.take() {
        Some(None) => cloud.broke(Rule::ResendsUsage, "no usage was reported"),
        Some(Some(first)) => {
            cloud.broke(Rule::ResendsUsage, format!("sample {first} came once"));
        }
        None => {}
    }
    Ok(Some(asked))
}

fn new_epoch(cloud: &mut Cloud, asked: Asked) -> Next {
    let old = asked.request.epoch;
    let answer = CreditAnswer {
        code: Code::EPOCH_SUPERSEDED,
        valid_until: None,
        ..cloud.answer_to(&asked.request, Octets::ZERO)
    };
    cloud.say(Down::Credit, &answer)?;
    let registered = cloud.until(cloud.wait + cloud.epoch_wait, |heard| match heard {
        Heard::Register(request, _) if request.epoch != old => Some(request.clone()),
        _ => None,
    })?;
    let Some(request) = registered else {
        cloud.broke(Rule::NewEpoch, "no registration of another epoch came");
        return Ok(None);
    };
    let closed = request.closes.as_ref();
    if closed.is_some_and(|closes| closes.epoch != old || closes.total < asked.request.used) {
        cloud.broke(Rule::NewEpoch, format!("it closes {closed:?}"));
    }
    cloud.accept(&request)?;
    match cloud.asked(cloud.wait)? {
        Some(next) if next.request.kind == Kind::Initial => cloud.keep(Rule::NewEpoch),
        next => {
            let kind = next.map(|next| next.request.kind);
            cloud.broke(Rule::NewEpoch, format!("then {kind:?}"));
        }
    }
    Ok(None)
}
