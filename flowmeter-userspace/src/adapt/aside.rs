//! What was set aside, in groups that a person can judge: who did what to whom, when, and how many flows it was.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use super::sample::Own;
use crate::calibration::Service;
use crate::timestamp::timestamp;

/// Sources from which a target is shown as one group with many sources.
const MANY_SOURCES: usize = 8;

/// Flows that belong together.
#[derive(Clone, Debug)]
pub struct AsideGroup {
    /// What the flows were for; None if they went to many services.
    pub service: Option<Service>,
    /// Who began them.
    pub sources: BTreeSet<IpAddr>,
    /// To whom.
    pub destinations: BTreeSet<IpAddr>,
    /// How many there were, by what the kept ones stand for.
    pub flows: f64,
    /// When the first and the last began, nanoseconds since the Unix epoch.
    pub time: (i64, i64),
    /// The flow of the greatest score, by its place among the network's own, and that score.
    pub clearest: (usize, f64),
    services: BTreeSet<Service>,
}

/// What the flows of a group have in common: source, destination, service; None where they differ.
type GroupKey = (Option<IpAddr>, Option<IpAddr>, Option<Service>);

/// The groups of the flows that were set aside, those of most flows first. Flows of a source to a service are a group; of a
/// source to many services, one; and of many sources to a service, one.
pub fn groups(own: &[Own], aside: &[bool], scores: &[f64]) -> Vec<AsideGroup> {
    let flows = || (0..own.len()).filter(|&i| aside[i]);
    let mut sources: HashMap<(IpAddr, Service), BTreeSet<IpAddr>> = HashMap::new();
    let mut services: HashMap<IpAddr, BTreeSet<Service>> = HashMap::new();
    for seen in flows().map(|i| own[i].seen) {
        sources.entry((seen.destination, seen.service)).or_default().insert(seen.source);
        services.entry(seen.source).or_default().insert(seen.service);
    }
    let mut groups: BTreeMap<GroupKey, AsideGroup> = BTreeMap::new();
    for i in flows() {
        let seen = own[i].seen;
        let key = if sources[&(seen.destination, seen.service)].len() >= MANY_SOURCES {
            (None, Some(seen.destination), Some(seen.service))
        } else if services[&seen.source].len() >= MANY_SOURCES {
            (Some(seen.source), None, None)
        } else {
            (Some(seen.source), None, Some(seen.service))
        };
        let group = groups.entry(key).or_insert_with(|| AsideGroup {
            service: key.2,
            sources: BTreeSet::new(),
            destinations: BTreeSet::new(),
            flows: 0.0,
            time: (seen.time, seen.time),
            clearest: (i, scores[i]),
            services: BTreeSet::new(),
        });
        group.sources.insert(seen.source);
        group.destinations.insert(seen.destination);
        group.services.insert(seen.service);
        group.flows += own[i].stands_for;
        group.time = (group.time.0.min(seen.time), group.time.1.max(seen.time));
        if scores[i] > group.clearest.1 {
            group.clearest = (i, scores[i]);
        }
    }
    let mut groups: Vec<AsideGroup> = groups.into_values().collect();
    groups.sort_by(|a, b| b.flows.total_cmp(&a.flows).then(a.time.cmp(&b.time)));
    groups
}

impl fmt::Display for AsideGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = |hosts: &BTreeSet<IpAddr>| match (hosts.len(), hosts.first()) {
            (1, Some(host)) => host.to_string(),
            (count, _) => format!("{count} hosts"),
        };
        let many = |count: f64, what: &str| {
            format!("{count:.0} {what}{}", if count.round() == 1.0 { "" } else { "s" })
        };
        let service = match self.service {
            Some(service) => service.to_string(),
            None => many(self.services.len() as f64, "service"),
        };
        let time = |time: i64| timestamp(time.try_into().unwrap_or(0));
        write!(
            f,
            "{} from {} to {} of {}, {} to {}, score up to {:.2}",
            many(self.flows, "flow"),
            some(&self.sources),
            service,
            some(&self.destinations),
            time(self.time.0),
            time(self.time.1),
            self.clearest.1
        )
    }
}
