//! What we know of a session that the broker still has: that nothing of ours is under way in it.
//!
//! Each connection gets an event loop of its own, and the client library refuses to send anything into a session that
//! it has no record of. This is the record, and it is true: what was under way was forgotten with the loop before, and
//! comes again from whoever remembers it. It is read before CONNECT; [`forget`] takes it away after CONNACK, or the
//! library would write a copy of its state after each packet.

use std::future::{Future, ready};
use std::pin::Pin;

use rumqttc::{
    MqttOptions, PersistedAckMode, PersistedSession, SessionStore, SessionStoreError,
    SessionStoreKey,
};

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

/// An empty session, for ever.
#[derive(Debug)]
struct NothingUnderWay(PersistedSession);

/// Gives the library its record.
pub(super) fn remember(options: &mut MqttOptions, session_expiry_s: u32) {
    options.set_session_store(NothingUnderWay(PersistedSession {
        format_version: 1,
        client_id: options.client_id(),
        clean_start: options.clean_start(),
        session_expiry_interval: Some(session_expiry_s),
        outgoing_inflight_upper_limit: options.get_outgoing_inflight_upper_limit(),
        ack_mode: PersistedAckMode::Manual,
        last_pkid: 0,
        last_puback: 0,
        replay: Vec::new(),
        incoming_qos2: Vec::new(),
    }));
}

/// Takes it away.
pub(super) fn forget(options: &mut MqttOptions) {
    options.clear_session_store();
}

impl SessionStore for NothingUnderWay {
    fn load<'a>(&'a self, _: &'a SessionStoreKey) -> Answer<'a, Option<PersistedSession>> {
        Box::pin(ready(Ok(Some(self.0.clone()))))
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> Answer<'a, ()> {
        Box::pin(ready(Ok(())))
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> Answer<'a, ()> {
        Box::pin(ready(Ok(())))
    }
}
