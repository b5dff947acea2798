use super::*;

fn token() -> JoinToken {
    JoinToken {
        cluster: "0193f3a0-0000-7000-8000-000000000001".parse().unwrap(),
        ca: CaHash([7; 32]),
        seed: TokenSeed([9; 32]),
        invite: Invite { role: Role::Chunkserver, node: 4, name: "chunkserver-4".into() },
        masters: vec!["m1:9421".into(), "[::1]:9421".into()],
    }
}

/// A change here is a change of the token's format: give it another prefix.
const GOLDEN: &str = "mooseng-join-1.EAGT86AAAHAAgAAAAAAAAAEHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJAQQNY2h1bmtzZXJ2ZXItNAIHbTE6OTQyMQpbOjoxXTo5NDIxFkcV3Q";

#[test]
fn the_text_is_pinned_and_read_back() {
    let token = token();
    assert_eq!(token.to_text(), GOLDEN);
    assert_eq!(JoinToken::parse(&format!("\n {GOLDEN}\r\n")).unwrap(), token);
    let shown = format!("{token:?}");
    assert!(!shown.contains("9, 9"), "the secret is shown: {shown}");
}

#[test]
fn every_altered_text_is_refused() {
    let bytes = GOLDEN.as_bytes();
    for at in 0..bytes.len() {
        for with in [b'A', b'b', b'7', b'-', b'=', b' ', bytes[at] ^ 1, bytes[at] ^ 0x20] {
            let mut altered = bytes.to_vec();
            altered[at] = with;
            let Ok(text) = String::from_utf8(altered) else { continue };
            if text.trim() != GOLDEN {
                let said = JoinToken::parse(&text).unwrap_err();
                assert!(matches!(said, JoinError::Text(_)), "byte {at} as {with}: {said}");
            }
        }
        assert!(JoinToken::parse(&GOLDEN[..at]).is_err(), "cut at {at}");
    }
    for text in ["", PREFIX, "mooseng-join-2.AAAA", &format!("{GOLDEN}A"), &format!("{GOLDEN}{GOLDEN}")] {
        assert!(JoinToken::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_well_formed_text_with_wrong_content_is_refused() {
    let named = |name: String| JoinToken { invite: Invite { name, ..token().invite }, ..token() };
    assert!(JoinToken::parse(&named("n".repeat(NODE_NAME_BYTES_MAX)).to_text()).is_ok());
    assert!(JoinToken::parse(&named("n".repeat(NODE_NAME_BYTES_MAX + 1)).to_text()).is_err());
    assert!(JoinToken::parse(&named("../up".into()).to_text()).is_err());
    let led_by = |n| JoinToken { masters: vec!["m:1".into(); n], ..token() };
    assert!(JoinToken::parse(&led_by(MASTERS_MAX).to_text()).is_ok());
    assert!(JoinToken::parse(&led_by(MASTERS_MAX + 1).to_text()).is_err());
    // The longest text is refused before it is decoded.
    let long = format!("{PREFIX}{}", "A".repeat(TOKEN_TEXT_BYTES_MAX + 1 - PREFIX.len()));
    assert!(JoinToken::parse(&long).unwrap_err().to_string().contains("longer than"));
    assert!(JoinToken::parse(&long[1..]).unwrap_err().to_string().contains("begin"));
}

#[test]
fn what_is_signed_is_what_is_verified() {
    let request = JoinRequest::new(&token(), Bytes::from_static(b"csr"));
    assert_eq!(JoinRequest::decode(&wire::encode(&request)).unwrap(), request);
    request.verify().unwrap();
    let other = TokenSeed([8; 32]).id();
    for altered in [
        JoinRequest { csr: Bytes::from_static(b"csR"), ..request.clone() },
        JoinRequest { token: other, ..request.clone() },
        JoinRequest { cluster: ClusterId(uuid::Uuid::nil()), ..request.clone() },
        JoinRequest { signature: request.signature.slice(1..), ..request.clone() },
        JoinRequest { signature: Bytes::new(), ..request.clone() },
    ] {
        assert_eq!(altered.verify(), Err(JoinError::Signature(altered.token)));
    }
}

#[test]
fn requests_are_bounded_at_the_edge() {
    let mut request = JoinRequest::new(&token(), Bytes::new());
    let room = JOIN_BYTES_MAX - wire::encode(&request).len() - 1;
    request.csr = Bytes::from(vec![1; room]);
    let bytes = wire::encode(&request);
    assert_eq!(bytes.len(), JOIN_BYTES_MAX, "the length of the CSR takes one byte more");
    JoinRequest::decode(&bytes).unwrap();
    let over = [&bytes[..], b"x"].concat();
    assert_eq!(JoinRequest::decode(&over), Err(JoinError::TooLarge { limit: JOIN_BYTES_MAX as u64 }));
    for bad in [&b""[..], b"\x02", b"\x01\x02", &bytes[..bytes.len() - 1]] {
        assert!(matches!(JoinRequest::decode(bad), Err(JoinError::Malformed(_))));
    }
}

#[test]
fn invites_have_numbers_where_they_must_and_clash_within_a_role() {
    let invite = |role, node, name: &str| Invite { role, node, name: name.into() };
    for (role, node, good) in [
        (Role::Master, 1, true),
        (Role::Master, 0, false),
        (Role::Chunkserver, 0, false),
        (Role::Client, 0, true),
        (Role::Client, 1, false),
        (Role::Admin, 0, true),
    ] {
        assert_eq!(invite(role, node, "n").check().is_ok(), good, "{role} {node}");
    }
    let one = invite(Role::Chunkserver, 1, "a");
    assert!(one.clashes(&invite(Role::Chunkserver, 1, "b")), "the number");
    assert!(one.clashes(&invite(Role::Chunkserver, 2, "a")), "the name");
    assert!(!one.clashes(&invite(Role::Chunkserver, 2, "b")));
    assert!(!one.clashes(&invite(Role::Master, 1, "a")), "roles count apart");
    let client = invite(Role::Client, 0, "a");
    assert!(!client.clashes(&invite(Role::Client, 0, "b")), "clients have no number");
}
