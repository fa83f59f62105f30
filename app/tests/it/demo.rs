//! `app demo --routes`: two services behind one port.

use crate::support::command;
use std::{collections::BTreeMap, fs, path::Path, process};

#[test]
fn demo_has_two_services_behind_one_port() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-{}", process::id()));
    fs::create_dir_all(&dir).unwrap();
    for tls in [&[][..], &["--tls"]] {
        let mut demo = command();
        demo.env("TMPDIR", &dir).args(["demo", "--routes", "--once", "--seconds", "1"]).args(tls);
        let output = demo.output().unwrap();
        let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{text}{errors}");
        assert!(text.contains(" (calls): gRPC demo.Echo/* -> orders\n"), "{text}");
        assert!(text.contains(" (pages): all paths -> shop\n"), "{text}");
        // The requests that the table has, and the ones that back ends have had.
        let sent: BTreeMap<_, u64> = ["GET", "gRPC unary", "64 KiB echo"]
            .into_iter()
            .map(|traffic| {
                let row = text.lines().find_map(|line| line.strip_prefix(traffic)).unwrap();
                (traffic, row.split_whitespace().next().unwrap().parse().unwrap())
            })
            .collect();
        let had = |backend: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{backend} has had "))).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        assert!(sent.values().all(|count| *count > 0), "{text}");
        assert_eq!((had("shop"), had("orders")), (sent["GET"] + sent["64 KiB echo"], sent["gRPC unary"]), "{text}");
    }
    // All files were removed.
    fs::remove_dir(dir).unwrap();
}
