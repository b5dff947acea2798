//! Seeds in CI: `MOOSENG_SEEDS=from..to cargo test -p mooseng-sim --test seeds` runs others.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("MOOSENG_SEEDS").unwrap_or_else(|_| "0..100".into());
    let (from, to) = text.split_once("..").expect("MOOSENG_SEEDS is FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn no_promise_is_broken() {
    let mut acknowledged = 0;
    for seed in seeds() {
        match mooseng_sim::world::run(seed) {
            Ok(outline) => acknowledged += outline.acknowledged,
            Err(e) => panic!("{e:#}"),
        }
    }
    assert!(acknowledged > 0, "nothing was acknowledged: nothing was proven");
}

#[test]
fn one_seed_is_one_run() {
    for seed in [3, 11] {
        assert_eq!(
            mooseng_sim::world::run(seed).unwrap(),
            mooseng_sim::world::run(seed).unwrap(),
            "seed {seed}"
        );
    }
}
