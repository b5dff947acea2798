//! The command's scenarios with few kills: no error, nothing lost. Times are measured by the command.

use mooseng_e2e::{
    faults::{self, Amount},
    report::Report,
};

#[test]
fn a_killed_leader_costs_no_error_and_no_data() {
    let mut report = Report::new("leader");
    faults::leader(Amount::Little, &mut report).unwrap();
    assert!(report.wrong.is_empty(), "{:?}", report.wrong);
}

#[test]
fn a_killed_chunkserver_costs_no_error_and_no_data() {
    let mut report = Report::new("chunkserver");
    faults::chunkserver(Amount::Little, &mut report).unwrap();
    assert!(report.wrong.is_empty(), "{:?}", report.wrong);
}
