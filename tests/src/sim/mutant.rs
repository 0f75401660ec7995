//! Deliberately broken variants. The production code has no seam for them: each breaks what goes in or comes out.
//! A simulator that does not find them proves nothing.

macro_rules! mutants {
    ($($(#[$meta:meta])* $name:ident = $text:literal in $seed:literal,)+) => {
        /// A way to be wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$meta])* $name,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// A seed in which it is found, with 3 devices and 2 days of 10-minute samples. The seeds follow from the
            /// dice: whoever changes what is drawn searches them anew (`cargo simulate -- --mutant NAME`).
            #[must_use]
            pub const fn seed(self) -> u64 {
                match self { $(Self::$name => $seed,)+ }
            }
        }
    };
}

mutants! {
    /// The edge publishes, and then commits.
    PublishBeforeCommit = "publish-before-commit" in 0,
    /// The edge raises the gate, and then commits.
    RaiseBeforeCommit = "raise-before-commit" in 0,
    /// The edge deletes samples when the broker has them.
    DeleteOnPuback = "delete-on-puback" in 0,
    /// The edge goes on under the old ceiling while an initial or a final is out.
    NoCut = "no-cut" in 0,
    /// The edge counts validity from the receipt of the answer.
    ValidityFromReceipt = "validity-from-receipt" in 0,
    /// The edge takes answers of any epoch as its own (R1).
    AnyEpoch = "any-epoch" in 1,
    /// The edge takes acknowledgements of any epoch as its own (R1).
    AckAnyEpoch = "ack-any-epoch" in 34,
    /// The edge takes an old answer for the latest (R2).
    StaleAnswer = "stale-answer" in 0,
    /// The edge forgets after a crash what it had metered last (sample and position not in one commit).
    SplitCommit = "split-commit" in 0,
    /// The cloud answers, and then commits.
    AnswerBeforeCommit = "answer-before-commit" in 5,
    /// The cloud debits what a credit request says was used.
    DebitOnCredit = "debit-on-credit" in 2,
    /// The cloud forgets its answer and decides the same number again (R5).
    AnswerNotStored = "answer-not-stored" in 0,
    /// The cloud decides a number below the highest (R5).
    StaleDecided = "stale-decided" in 0,
    /// The cloud does not move the mark.
    MarkNotMoved = "mark-not-moved" in 0,
    /// The cloud moves the mark further than the debit.
    MarkTooFar = "mark-too-far" in 2,
    /// The cloud's ledger lowers the ceiling with an update, while the device takes the larger one (R6).
    CeilingLowered = "ceiling-lowered" in 0,
    /// The cloud says a higher ceiling than it booked.
    CeilingPromised = "ceiling-promised" in 0,
    /// The cloud pushes a higher ceiling than it reserved (R7).
    PushUnbacked = "push-unbacked" in 0,
    /// The cloud takes segments from the wrong end.
    SegmentsReversed = "segments-reversed" in 0,
    /// The cloud acknowledges usage after a lapse without charging it.
    LateDropped = "late-dropped" in 3,
    /// The cloud does not move the lease with the validity (R4).
    LeaseNotMoved = "lease-not-moved" in 0,
    /// The cloud shortens the lease with an update that the device may never hear.
    LeaseShortened = "lease-shortened" in 2179,
    /// A merged sample is numbered by its first only.
    MergedByFirst = "merged-by-first" in 0,
    /// A merged sample is numbered by its last only.
    MergedByLast = "merged-by-last" in 0,
    /// Two operations of one batch read the same balance.
    NoReadOfOwnWrites = "no-read-of-own-writes" in 0,
}
