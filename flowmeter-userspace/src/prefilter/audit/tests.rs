//! The audit, by logs and alerts of a few lines.

use super::*;

fn read(eve: &[u8]) -> Result<Alerts> {
    let mut alerts = Alerts::default();
    alerts.add(eve)?;
    alerts.check()?;
    Ok(alerts)
}

fn audit(log: &[u8], alerts: Alerts) -> Result<Report> {
    let mut audit = Audit::new(alerts);
    audit.add(log)?;
    audit.report()
}

fn flow(id: &str, marked: &str, audited: bool) -> String {
    format!(
        r#"{{"event":"flow","timestamp":"2026-11-23T10:00:00Z","community_id":"{id}","duration":60.0,"marked":"{marked}","audited":{audited}}}"#
    )
}

fn verdict(id: &str) -> String {
    format!(
        r#"{{"event":"verdict","timestamp":"2026-11-23T10:00:00.000001Z","community_id":"{id}","duration":1.5,"verdict":"benign"}}"#
    )
}

fn alert(id: &str, at: &str) -> String {
    format!(
        r#"{{"timestamp":"2026-11-23T{at}+0000","event_type":"alert","community_id":"{id}","alert":{{"signature":"S {id}"}}}}"#
    )
}

#[test]
fn alerts_count_by_flow_lane_and_time() {
    let log = [
            verdict("a"),
            flow("a", "benign", true),  // alert after the verdict: missed
            verdict("b"),
            flow("b", "benign", true),  // alert before it only: caught
            flow("c", "benign", false), // not audited, late alert: caught
            flow("d", "malicious", false), // caught
            flow("e", "benign", true),  // none
            flow("f", "benign", true),  // alert of another time: not its own
            r#"{"event":"stats","interfaces":[{"seen":100,"counted_bytes":900,"folded_bytes":100,"prefilter":{"spared":{"packets":60,"bytes":800}}}]}"#.to_owned(),
        ]
        .join("\n");
    let eve = [
        alert("a", "10:00:30.000000"),
        alert("b", "10:00:01.000000"),
        alert("c", "10:00:30.000000"),
        alert("d", "10:00:02.000000"),
        alert("f", "11:00:00.000000"),
        r#"{"event_type":"flow"}"#.to_owned(),
    ]
    .join("\n");
    let report = audit(log.as_bytes(), read(eve.as_bytes()).expect("EVE")).expect("an audit");
    assert_eq!((report.cleared, report.miss_rate.found, report.miss_rate.of), (5, 1, 4));
    assert_eq!((report.caught, report.unmatched_alerts), (3, 1));
    assert_eq!((report.spared.packets, report.seen.bytes), (60, 1000));
    assert_eq!(report.misses, [Miss { community_id: "a".to_owned(), signature: "S a".to_owned() }]);
}

#[test]
fn own_alerts_are_passed_over() {
    let with_id = |id: u64, flow: &str| {
        alert(flow, "10:00:30.000000").replace(r#""alert":{"#, &format!(r#""alert":{{"signature_id":{id},"#))
    };
    let eve = [with_id(9_100_001, "a"), with_id(9_100_002, "a"), with_id(2_001_219, "b")].join("\n");
    let log = [flow("a", "benign", true), flow("b", "benign", true)].join("\n");
    let report = audit(log.as_bytes(), read(eve.as_bytes()).expect("EVE")).expect("an audit");
    assert_eq!((report.miss_rate.found, report.miss_rate.of), (1, 2));
    assert_eq!(report.misses, [Miss { community_id: "b".to_owned(), signature: "S b".to_owned() }]);
}

#[test]
fn a_blind_inspector_proves_nothing() {
    let audited = |arrived: u64| {
        let stats = format!(
            r#"{{"event":"stats","interfaces":[],"inspector":{{"interface":"ids0","sent":500,"arrived":{arrived},"reached":false}}}}"#
        );
        audit([flow("a", "benign", true), stats].join("\n").as_bytes(), Alerts::default())
    };
    assert!(audited(499).is_ok());
    let problem = format!("{:#}", audited(0).expect_err("blind"));
    assert!(problem.contains("500 packets") && problem.contains("ids0"), "{problem}");
}

#[test]
fn logs_and_alerts_that_say_nothing_are_refused() {
    let without = r#"{"event_type":"alert","timestamp":"2026-11-23T10:00:00.000000+0000"}"#;
    assert!(format!("{:#}", read(without.as_bytes()).expect_err("no id")).contains("community-id: true"));
    let log = flow("a", "benign", false);
    let problem = audit(log.as_bytes(), Alerts::default()).expect_err("none audited");
    assert!(format!("{problem:#}").contains("--audit N"));
    assert!(read("nonsense".as_bytes()).is_err());
}

#[test]
fn the_key_of_older_logs_is_read() {
    for key in ["prefilter", "reaction"] {
        let line =
            format!(r#"{{"interfaces":[{{"seen":9,"{key}":{{"spared":{{"packets":7,"bytes":700}}}}}}]}}"#);
        let (spared, seen) = volumes(&serde_json::from_str(&line).expect("JSON"));
        assert_eq!((spared.packets, spared.bytes, seen.packets), (7, 700, 9), "{key}");
    }
}

#[test]
fn rotated_logs_and_restarts_are_one_audit() {
    let stats = |uptime: u32, at: &str, packets: u64| {
        format!(
            r#"{{"event":"stats","timestamp":"2026-11-23T{at}Z","agent":{{"uptime":{uptime}}},"interfaces":[{{"seen":{packets},"prefilter":{{"spared":{{"packets":{packets},"bytes":0}}}}}}]}}"#
        )
    };
    let adoption = r#"{"event":"agent","what":"adoption"}"#.to_owned();
    let first = [verdict("a"), stats(60, "10:01:00", 10), stats(120, "10:02:00", 25)].join("\n");
    // The same run goes on, another one starts anew, and a third one adopts what that has counted.
    let second = [flow("a", "benign", true), stats(180, "10:03:00", 40), stats(60, "11:00:00", 7)].join("\n");
    let third = [adoption, stats(60, "12:00:00", 9)].join("\n");
    let report = |logs: &[&str]| {
        let mut audit = Audit::new(read(alert("a", "10:00:30.000000").as_bytes()).expect("EVE"));
        logs.iter().for_each(|log| audit.add(log.as_bytes()).expect("a log"));
        audit.report().expect("an audit")
    };
    let found = report(&[&first, &second, &third]);
    assert_eq!((found.miss_rate.found, found.spared.packets, found.seen.packets), (1, 49, 49));
    // The line of the verdict may stand in a log that is named later.
    let turned = report(&[&flow("a", "benign", true), &verdict("a")]);
    assert_eq!((turned.miss_rate.found, turned.miss_rate.of), (1, 1));
}
