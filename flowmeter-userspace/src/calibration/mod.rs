//! What fits a model's verdicts to a network: a file that `flowmeter calibrate` writes and the agent takes.
//!
//! It holds thresholds, of the whole and of single services, and what is normal for the flows of each service: a flow that
//! would be called malicious, but is in every input like those that its service has at this network all the time, is
//! called unknown. It is never called benign for that, so that a pre-filter still passes it on. [`sample`] keeps a network's flows, [`estimate`] finds both from their scores, [`fit`]
//! makes the file of it, and [`report`] says in words what was found.

pub mod estimate;
pub mod fit;
pub mod report;
pub mod sample;

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use flowmeter_common::packet::protocol;
use serde::{Deserialize, Serialize};

use crate::count::count;
use crate::features::FeatureSet;
use crate::model::{Model, Thresholds, Verdict};

/// The only version of the file.
const VERSION: u32 = 1;

/// What flows are for, as far as headers tell: protocol and the destination's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Service {
    /// IANA number.
    pub protocol: u8,
    /// 0 where the protocol has no ports.
    pub port: u16,
}

impl Service {
    /// The service that a flow is of. What stands in place of ICMP's ports is none.
    pub fn of(protocol: u8, destination_port: u16) -> Self {
        let has_ports = matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        Self { protocol, port: if has_ports { destination_port } else { 0 } }
    }
}

impl Display for Service {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.protocol {
            protocol::TCP => write!(f, "{}/tcp", self.port),
            protocol::UDP => write!(f, "{}/udp", self.port),
            protocol::SCTP => write!(f, "{}/sctp", self.port),
            protocol::ICMP => f.write_str("icmp"),
            protocol::ICMPV6 => f.write_str("icmpv6"),
            other => write!(f, "protocol {other}"),
        }
    }
}

/// What is known of a service at this network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    /// Score from which its flows are malicious, if not the network's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub malicious: Option<f64>,
    /// Least and greatest usual value of each input, if it has been seen often enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normal: Option<Vec<(f32, f32)>>,
}

impl Usual {
    /// True if every input lies within what is normal.
    pub fn holds(&self, row: &[f32]) -> bool {
        self.normal.as_ref().is_some_and(|normal| {
            row.iter().zip(normal).all(|(value, (low, high))| low <= value && value <= high)
        })
    }
}

/// A service in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ServiceEntry {
    #[serde(flatten)]
    service: Service,
    #[serde(flatten)]
    usual: Usual,
}

/// What false alarms were allowed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// As a share of all flows.
    pub rate: f64,
    /// Flows a day, if it was said so.
    pub alerts_per_day: Option<f64>,
}

/// Where a calibration comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Flows seen.
    pub flows: u64,
    /// Days that they cover, without gaps of more than an hour.
    pub days: f64,
    /// When the first began, RFC 3339.
    pub first: String,
    /// When the last began.
    pub last: String,
    /// Version of the program that wrote the file.
    pub flowmeter: String,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct CalibrationFile {
    calibration: u32,
    model: String,
    feature_set: String,
    /// What the model gives its golden vector, by which models of one name are told apart.
    golden_score: f64,
    inputs: Vec<String>,
    origin: Origin,
    budget: Budget,
    malicious: f64,
    benign: f64,
    services: Vec<ServiceEntry>,
}

/// A calibration in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Thresholds in place of the model's.
    pub thresholds: Thresholds,
    /// Services of which more is known.
    pub services: HashMap<Service, Usual>,
    /// Where it comes from.
    pub origin: Origin,
    /// What it allows.
    pub budget: Budget,
}

impl Calibration {
    /// Reads a file that was made for `model`, which takes its inputs from `set`.
    ///
    /// # Errors
    /// It cannot be read, is of another model, or does not hold together.
    pub fn read(path: &Path, model: &Model, set: &FeatureSet) -> Result<Self> {
        let name = path.display();
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read the calibration {name}"))?;
        Self::parse(&text, model, &model.input_names(set)).with_context(|| {
            format!("the calibration {name} is refused (`flowmeter calibrate` with this model writes one)")
        })
    }

    fn parse(text: &str, model: &Model, inputs: &[&str]) -> Result<Self> {
        let file: CalibrationFile = serde_json::from_str(text).context("it is not a calibration file")?;
        ensure!(file.calibration == VERSION, "its version is {}: expected {VERSION}", file.calibration);
        ensure!(
            file.model == model.name() && file.feature_set == model.feature_set(),
            "it was made for {} on {}: expected {} on {}, the model in use",
            file.model,
            file.feature_set,
            model.name(),
            model.feature_set()
        );
        ensure!(
            file.inputs == inputs
                && (file.golden_score - model.golden_score()).abs() <= crate::model::GOLDEN_TOLERANCE,
            "it was made for another model with the same name, {}",
            file.model
        );
        file.checked()
    }

    /// The text of the file.
    ///
    /// # Errors
    /// None that a valid calibration could give.
    pub fn write(&self, model: &Model, set: &FeatureSet) -> Result<String> {
        let mut services: Vec<ServiceEntry> = self
            .services
            .iter()
            .map(|(&service, usual)| ServiceEntry { service, usual: usual.clone() })
            .collect();
        services.sort_by_key(|entry| entry.service);
        let file = CalibrationFile {
            calibration: VERSION,
            model: model.name().to_owned(),
            feature_set: model.feature_set().to_owned(),
            golden_score: model.golden_score(),
            inputs: model.input_names(set).into_iter().map(str::to_owned).collect(),
            origin: self.origin.clone(),
            budget: self.budget,
            malicious: self.thresholds.malicious,
            benign: self.thresholds.benign,
            services,
        };
        Ok(serde_json::to_string(&file)? + "\n")
    }

    /// The verdict on a flow with this score and these inputs, and the score from which it would be malicious.
    pub fn verdict(&self, model: &Model, score: f64, row: &[f32], service: Service) -> (Verdict, f64) {
        let usual = self.services.get(&service);
        let malicious = usual.and_then(|usual| usual.malicious).unwrap_or(self.thresholds.malicious);
        let verdict = model.verdict_by(Thresholds { malicious, ..self.thresholds }, score, row);
        match verdict {
            Verdict::Malicious if usual.is_some_and(|usual| usual.holds(row)) => {
                (Verdict::Unknown, malicious)
            }
            other => (other, malicious),
        }
    }
}

impl CalibrationFile {
    fn checked(self) -> Result<Calibration> {
        let scores = 0.0..=1.0_f64.next_up();
        let malicious =
            self.services.iter().filter_map(|entry| entry.usual.malicious).chain([self.malicious]);
        for threshold in malicious {
            ensure!(
                scores.contains(&threshold) && self.benign <= threshold,
                "invalid threshold {threshold}: expected a score from {}, that of benign, to 1",
                self.benign
            );
        }
        ensure!(
            scores.contains(&self.benign),
            "invalid threshold of benign {}: expected a score from 0 to 1",
            self.benign
        );
        for ServiceEntry { service, usual } in &self.services {
            if let Some(normal) = &usual.normal {
                ensure!(
                    normal.len() == self.inputs.len() && normal.iter().all(|(low, high)| low <= high),
                    "invalid normal ranges of {service}: expected a range [least, greatest] for each of {} inputs",
                    self.inputs.len()
                );
            }
        }
        let services = self.services.into_iter().map(|entry| (entry.service, entry.usual)).collect();
        let thresholds = Thresholds { malicious: self.malicious, benign: self.benign };
        Ok(Calibration { thresholds, services, origin: self.origin, budget: self.budget })
    }
}

impl Display for Calibration {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let services = |has: fn(&Usual) -> bool| {
            count(self.services.values().filter(|usual| has(usual)).count() as u64, "service")
        };
        write!(
            f,
            "calibrated on {}, {} to {}: threshold {}, {} with a higher one, {} with normal ranges",
            count(self.origin.flows, "flow"),
            self.origin.first,
            self.origin.last,
            self.thresholds.malicious,
            services(|usual| usual.malicious.is_some()),
            services(|usual| usual.normal.is_some())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> CalibrationFile {
        let usual = Usual { malicious: Some(0.9), normal: Some(vec![(0.0, 1.0), (2.0, 2.0)]) };
        CalibrationFile {
            calibration: VERSION,
            model: "m".to_owned(),
            feature_set: "s".to_owned(),
            golden_score: 0.5,
            inputs: vec!["a".to_owned(), "b".to_owned()],
            origin: Origin {
                flows: 1,
                days: 1.0,
                first: String::new(),
                last: String::new(),
                flowmeter: String::new(),
            },
            budget: Budget { rate: 0.01, alerts_per_day: None },
            malicious: 0.8,
            benign: 0.1,
            services: vec![ServiceEntry { service: Service::of(protocol::TCP, 502), usual }],
        }
    }

    #[test]
    fn a_file_reads_back_as_it_was() {
        let text = serde_json::to_string(&file()).unwrap();
        assert_eq!(serde_json::from_str::<CalibrationFile>(&text).unwrap(), file());
        assert!(
            text.contains(r#"{"protocol":6,"port":502,"malicious":0.9,"normal":[[0.0,1.0],[2.0,2.0]]}"#),
            "{text}"
        );
    }

    #[test]
    fn what_does_not_hold_together_is_refused() {
        assert!(file().checked().is_ok());
        let breaks: [fn(&mut CalibrationFile); 5] = [
            |f| f.malicious = 0.05,
            |f| f.benign = -0.1,
            |f| f.services[0].usual.malicious = Some(1.5),
            |f| f.services[0].usual.normal = Some(vec![(0.0, 1.0)]),
            |f| f.services[0].usual.normal = Some(vec![(1.0, 0.0), (0.0, 1.0)]),
        ];
        for (i, break_it) in breaks.into_iter().enumerate() {
            let mut broken = file();
            break_it(&mut broken);
            assert!(broken.checked().is_err(), "case {i}");
        }
    }

    #[test]
    fn usual_is_what_lies_within_in_every_input() {
        let usual = &file().services[0].usual;
        assert!(usual.holds(&[0.0, 2.0]) && usual.holds(&[1.0, 2.0]));
        assert!(!usual.holds(&[1.1, 2.0]) && !usual.holds(&[0.5, 1.9]));
        assert!(!Usual::default().holds(&[0.5, 2.0]));
    }

    #[test]
    fn icmp_is_one_service() {
        assert_eq!(Service::of(protocol::ICMP, 77), Service::of(protocol::ICMP, 78));
        assert_ne!(Service::of(protocol::TCP, 77), Service::of(protocol::UDP, 77));
    }
}
