//! Who is no member: no certificate, one of another cluster, one of a forged authority.

use super::{members::*, raw, *};
use mooseng_net::identity::ClusterCa;
use rustls::ClientConfig;

/// Tries to be let in at a port; what it is told.
async fn tries(transport: &str, port: u16, config: ClientConfig) -> String {
    if transport == "tcp" {
        let told = tokio::task::spawn_blocking(move || {
            let mut s = raw::tls(port, config);
            let said = s.write_all(&raw::hello()).and_then(|()| s.flush());
            said.and_then(|()| s.read(&mut [0; 64])).unwrap_err().to_string()
        });
        return told.await.unwrap();
    }
    // TLS 1.3 ends for the client before the server has looked at its certificate.
    let (_endpoint, connection) = match raw::quic(port, config).await {
        Ok(connected) => connected,
        Err(told) => return told,
    };
    if let Ok((mut send, mut receive)) = connection.open_bi().await {
        let _ = send.write_all(&raw::hello()).await;
        assert!(receive.read(&mut [0; 64]).await.is_err(), "it was let in");
    }
    connection.closed().await.to_string()
}

/// Who comes, with what; what it is told, and what the log says.
type Case<'a> = (&'a str, &'a dyn Fn() -> ClientConfig, &'a [&'a str], &'a str);

#[test]
fn who_is_no_member_is_let_in_nowhere() {
    let foreign = Site::new("quic");
    for transport in TRANSPORTS {
        let (site, master, chunkserver) = Site::serving(transport);
        // An authority that says that it is this cluster's.
        let forger = ClusterCa::create(site.identity("admin").peer().cluster).unwrap();
        let forged = site.dir.path().join("forged");
        fs::create_dir(&forged).unwrap();
        let day = Duration::from_secs(86_400);
        forger.issue(mooseng_core::net::Role::Admin, 0, "forged", day).unwrap().save(&forged).unwrap();
        let foreign = PathBuf::from(foreign.path("c/admin"));
        let ports =
            [(site.master[0], &master), (site.master[1], &master), (site.chunkserver[0], &chunkserver)];
        // What it is told by the other side, and what that one's log says.
        let cases: [Case<'_>; 3] = [
            (
                "nobody",
                &raw::nobody,
                &["CertificateRequired", "certificate required", "cryptographic handshake failed: error 116"],
                "certificate",
            ),
            (
                "foreign",
                &|| raw::anybody(&foreign),
                &["lert", "handshake failed"],
                "its certificate is of cluster",
            ),
            (
                "forged",
                &|| raw::anybody(&forged),
                &["lert", "handshake failed"],
                "its certificate does not hold",
            ),
        ];
        run(async {
            for (who, config, told, line) in &cases {
                for (port, daemon) in &ports {
                    let before = daemon.log().matches("a connection was refused").count();
                    let got = tries(transport, *port, config()).await;
                    assert!(told.iter().any(|t| got.contains(t)), "{who} over {transport}: {got}");
                    wait_for(&format!("a line about {who} over {transport}"), || {
                        let log = daemon.log();
                        let lines: Vec<_> =
                            log.lines().filter(|l| l.contains("a connection was refused")).collect();
                        lines[before..].iter().any(|l| l.contains(line)).then_some(())
                    });
                }
            }
        });
        site.serves();
    }
}
