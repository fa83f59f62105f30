//! The files of the system: hosts and resolv.conf.

use super::{SECOND, Server, UNBOUNDED, addrs, changed, check, hosts_and_ports, pass, settle};
use app::dns::{Resolver, discover};
use app_env::Dns;
use std::fs;

#[tokio::test(start_paused = true)]
async fn names_are_tried_in_the_search_domains() {
    let mut server = Server::start_with("search one.test two.test\noptions ndots:2", "").await;
    server.set_addrs("web.two.test", 5, &["10.0.0.1"]);
    server.set_addrs("a.b.test", 5, &["10.0.0.2"]);
    server.set_addrs("web", 5, &["10.0.0.3"]);
    server.set_addrs("b.test", 5, &["10.0.0.4"]);
    let mut check_one = async |endpoint: &str, expect: &str, asked: &[&str]| {
        let mut list = server.discover(&[endpoint], UNBOUNDED);
        changed(&mut list).await;
        check(&list, &[expect]);
        assert_eq!(server.names(), asked);
    };
    check_one("web:80", "10.0.0.1:80", &["web.one.test.", "web.two.test."]).await;
    check_one("web.:80", "10.0.0.3:80", &["web."]).await;
    check_one("a.b.test:80", "10.0.0.2:80", &["a.b.test."]).await;
    check_one("b.test:80", "10.0.0.4:80", &["b.test.one.test.", "b.test.two.test.", "b.test."]).await;
}

#[tokio::test(start_paused = true)]
async fn a_hosts_file_comes_first_and_is_read_anew() {
    let hosts = "10.1.0.1 db db.test # comment\n10.1.0.2 db\n::5 db\nnonsense\n";
    let mut server = Server::start_with("search test", hosts).await;
    server.set_addrs("db.test", 5, &["10.0.0.1"]);
    let bounds = Dns { max_ttl: Some(5 * SECOND), ..UNBOUNDED };
    let mut list = server.discover(&["DB:80"], bounds);
    changed(&mut list).await;
    check(&list, &["10.1.0.1:80", "10.1.0.2:80", "[::5]:80"]);
    assert!(server.names().is_empty());
    fs::write(server.files.join("hosts"), "10.1.0.3 db\n").unwrap();
    pass(5 * SECOND).await;
    changed(&mut list).await;
    check(&list, &["10.1.0.3:80"]);
    fs::remove_file(server.files.join("hosts")).unwrap();
    pass(5 * SECOND).await;
    changed(&mut list).await;
    check(&list, &["10.0.0.1:80"]);
}

#[tokio::test]
async fn localhost_is_the_systems() {
    let mut list = discover(&hosts_and_ports(&["localhost:80"]), false, UNBOUNDED, &Resolver::system()).list;
    changed(&mut list).await;
    assert!(addrs(&list).contains(&([127, 0, 0, 1], 80).into()), "{:?}", addrs(&list));
}

#[tokio::test(start_paused = true)]
async fn without_resolv_conf_names_keep_their_addresses_until_it_is_back() {
    let mut server = Server::start_with("", "10.1.0.1 db").await;
    server.set_addrs("a.test", 5, &["10.0.0.1"]);
    let mut list = server.discover(&["a.test:80"], UNBOUNDED);
    changed(&mut list).await;
    server.asked().await;
    server.set_addrs("a.test", 5, &["10.0.0.2"]);
    let resolv_conf = server.files.join("resolv.conf");
    let text = fs::read(&resolv_conf).unwrap();
    fs::remove_file(&resolv_conf).unwrap();
    pass(5 * SECOND).await;
    settle().await;
    assert!(server.names().is_empty() && !list.has_changed().unwrap());
    // The hosts file does without.
    let mut other = server.discover(&["db:80"], UNBOUNDED);
    changed(&mut other).await;
    check(&other, &["10.1.0.1:80"]);
    fs::write(&resolv_conf, text).unwrap();
    pass(SECOND).await;
    changed(&mut list).await;
    check(&list, &["10.0.0.2:80"]);
}
