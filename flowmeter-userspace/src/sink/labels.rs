//! Labels of flows, by a table of the truth.

use std::borrow::Cow;
use std::sync::Arc;

use crate::flow_log::Row;
use crate::scoring::Scored;
use crate::timestamp::timestamp;
use crate::truth::{KnownLabel, Truth};

/// What is known of the flows that are written; nothing by default.
#[derive(Clone, Default)]
pub struct Labels(Option<Arc<Truth>>);

impl Labels {
    /// By this table.
    pub fn by(truth: Truth) -> Self {
        Self(Some(Arc::new(truth)))
    }

    /// True if there is a table.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// What is known of a flow.
    pub fn of(&self, scored: &Scored<'_>) -> Option<&KnownLabel> {
        self.0.as_ref()?.of(&Written(scored))
    }
}

/// A flow as it will stand in the log.
struct Written<'a>(&'a Scored<'a>);

impl Row for Written<'_> {
    fn text(&self, column: &str) -> Option<Cow<'_, str>> {
        let record = self.0.record;
        Some(match column {
            "observed" => Cow::Borrowed(self.0.observed?),
            "community_id" => Cow::Owned(record.community_id()?),
            "src_ip" => Cow::Owned(record.source().address.to_string()),
            "src_port" => Cow::Owned(record.source().port.to_string()),
            "dst_ip" => Cow::Owned(record.destination().address.to_string()),
            "dst_port" => Cow::Owned(record.destination().port.to_string()),
            "protocol" => Cow::Owned(record.entry.key.protocol.to_string()),
            "timestamp" => Cow::Owned(timestamp(record.first_seen())),
            _ => return None,
        })
    }
}
