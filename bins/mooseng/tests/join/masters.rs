//! Masters that are added, made leader and removed while the cluster runs.

use super::*;

/// A fourth master's process, which waits to be added.
fn fourth(trio: &Trio, ports: [u16; 3]) -> Daemon {
    let mut c = mooseng(&["master", "--data-dir", &trio.path("m4"), "--raft-peers", "wait"]);
    let [listen, raft, metrics] = ports.map(|p| p.to_string());
    c.env("MOOSENG_IDENTITY_DIR", trio.path("c/master-4")).env("MOOSENG_LISTEN_ADDR", "127.0.0.1");
    c.env("MOOSENG_LISTEN_PORT", listen).env("MOOSENG_RAFT_PORT", raft).env("MOOSENG_METRICS_PORT", metrics);
    Daemon::start(c, trio.path("m4.log").into())
}

#[test]
fn a_master_is_added_leads_and_another_goes() {
    let trio = Trio::new(&[]);
    let masters = trio.masters();
    trio.ok(&["mkdir", "/kept"]);
    let (ca, out) = (trio.path("c/ca"), trio.path("c/master-4"));
    let issue = ["cluster", "issue", "--ca", &ca, "--role", "master", "--node", "4", "--name", "master-4"];
    assert!(mooseng(&[&issue[..], &["--out", &out]].concat()).output().unwrap().status.success());
    let ports = [free_port(), free_port(), free_port()];
    let mut new = fourth(&trio, ports);
    wait_for("it answers", || http_get(ports[2], "/livez").filter(|(status, _)| *status == 200));

    let (raft, client) = (format!("127.0.0.1:{}", ports[1]), format!("127.0.0.1:{}", ports[0]));
    let add = ["cluster", "add-master", "--node", "4", "--raft-addr", &raft, "--client-addr", &client];
    // Not everybody may.
    let (code, told) = fails(trio.verb(&trio.path("c/client-1"), &add));
    assert!(code == Some(4) && told.contains("admin"), "{code:?} {told}");
    for _ in 0..2 {
        let told = trio.ok(&add);
        assert!(told.contains("master 4 at") && told.lines().count() == 4, "{told}");
    }
    new.wait_ready(ports[2]);
    let mut elsewhere = add;
    elsewhere[5] = "127.0.0.1:1";
    let (code, told) = fails(trio.verb(&trio.path("c/admin"), &elsewhere));
    assert!(code == Some(2) && told.contains("remove it first"), "{code:?} {told}");

    // One that is not there is left as a learner, and can be taken back.
    let ports = [free_port(), free_port()].map(|p| format!("127.0.0.1:{p}"));
    let nobody = ["cluster", "add-master", "--timeout", "2s", "--node", "5", "--raft-addr", &ports[0]];
    let nobody = [&nobody[..], &["--client-addr", &ports[1]]].concat();
    let (code, told) = fails(trio.verb(&trio.path("c/admin"), &nobody));
    assert!(
        code == Some(10) && told.contains(&ports[0]) && told.contains("remove-master 5"),
        "{code:?} {told}"
    );
    let told = trio.ok(&["cluster", "remove-master", "5", "--yes"]);
    assert!(told.lines().count() == 4 && !told.contains("master 5 "), "{told}");

    let (code, told) = fails(trio.verb(&trio.path("c/admin"), &["cluster", "transfer-leadership", "9"]));
    assert!(code == Some(2) && told.contains("there are 1, 2, 3, 4"), "{code:?} {told}");
    let told = trio.ok(&["cluster", "transfer-leadership", "4"]);
    assert!(told.contains(&format!("master 4 at {client} leads")), "{told}");
    let (code, told) = fails(trio.verb(&trio.path("c/admin"), &["cluster", "remove-master", "1"]));
    assert!(code == Some(2) && told.contains("--yes"), "{code:?} {told}");
    let told = trio.ok(&["cluster", "transfer-leadership", "4", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&told).unwrap();
    let all = json["items"].as_array().unwrap();
    let leads = all.iter().find(|m| m["leader"] == true).unwrap();
    assert!(all.len() == 4 && leads["id"] == 4 && leads["client_addr"] == client, "{told}");
    let told = trio.ok(&["cluster", "remove-master", "1", "-y", "-o", "jsonl"]);
    assert!(told.lines().count() == 3 && !told.contains("\"id\":1,"), "{told}");
    // A quorum without the one removed, and with the new one.
    let mut masters = masters.into_iter();
    drop((masters.next(), masters.next()));
    assert_eq!(trio.ok(&["ls"]), "kept\n");
    assert_eq!(new.stop(), Some(0));
}
