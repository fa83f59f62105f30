//! Discovery against a DNS server on loopback. The clock stands still but for `pass`, so a TTL costs no time.

use crate::support::PATIENCE;
use app::dns::{Discovery, Resolver, Target, discover};
use app_env::{Dns, HostPort};
use bytes::Bytes;
use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, NS, SOA},
    },
};
use http::{Request, Response};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{BoxError, Connect, Endpoint, Endpoints, Proxy, balance, proxy};
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    future::{Future, pending, poll_fn},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc as std_mpsc,
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::Handle,
    sync::{Notify, mpsc, watch},
    task::yield_now,
    time::{Instant, advance, timeout},
};

mod families;
mod negative;
mod servers;

type List = watch::Receiver<Vec<Endpoint<Target>>>;

const SECOND: Duration = Duration::from_secs(1);

/// No bounds on the TTL.
const UNBOUNDED: Dns = Dns { min_ttl: None, max_ttl: None, negative_hold: HOLD };

/// How long addresses are kept after the answer that there are none.
const HOLD: Duration = Duration::from_secs(30);

/// The server's answer for a name.
#[derive(Clone, Debug)]
enum Zone {
    Addrs {
        addrs: Vec<IpAddr>,
        ttl: u32,
    },
    /// An alias, sent with the records of its target.
    Alias {
        target: &'static str,
        ttl: u32,
    },
    Code(ResponseCode),
    /// Something else for each family, IPv4 first.
    Families(Said, Said),
}

/// The server's answer for a name and a family.
#[derive(Clone, Debug)]
enum Said {
    Addrs(Vec<IpAddr>, u32),
    Code(ResponseCode),
    /// That there is no data, with an SOA that says for how long.
    NoData(u32),
    /// A referral to other name servers.
    Referral,
    Nothing,
}

type Zones = Arc<Mutex<HashMap<String, Zone>>>;

/// Names that were asked for, and when.
type Asked = mpsc::UnboundedReceiver<(String, Instant)>;

/// A DNS server, and a resolver that asks it.
struct Server {
    zones: Zones,
    /// For IPv4 addresses.
    asked: Asked,
    /// For IPv6 addresses.
    asked_v6: Asked,
    /// One at 127.0.0.2.
    other: Other,
    resolver: Resolver,
    files: PathBuf,
    /// Held while the clock stands still.
    _clock: std_mpsc::Sender<()>,
}

/// Another DNS server, which is asked once resolv.conf has it.
struct Other {
    zones: Zones,
    asked: Asked,
}

impl Server {
    async fn start() -> Self {
        Self::start_with("", "").await
    }

    /// The same, with more lines of resolv.conf and with a hosts file.
    async fn start_with(resolv_conf: &str, hosts: &str) -> Self {
        let (_clock, held) = std_mpsc::channel::<()>();
        // A paused clock runs on by itself once there is nothing to do, and replies on the way count as nothing. It
        // stands still while such a task runs; when that gives up, all timeouts of a test that hangs are over.
        tokio::task::spawn_blocking(move || _ = held.recv_timeout(PATIENCE));

        let (port, sockets, other_sockets) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let port = udp.local_addr().unwrap().port();
            // The port may be taken for TCP or at the other address, in which case there is another one.
            if let Ok(tcp) = TcpListener::bind(("127.0.0.1", port)).await
                && let Ok(other_udp) = UdpSocket::bind(("127.0.0.2", port)).await
                && let Ok(other_tcp) = TcpListener::bind(("127.0.0.2", port)).await
            {
                break (port, (udp, tcp), (other_udp, other_tcp));
            }
        };
        let (zones, asked, asked_v6) = serve(sockets);
        let (other_zones, other_asked, _) = serve(other_sockets);
        let other = Other { zones: other_zones, asked: other_asked };

        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let directory = format!("dns-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let files = Path::new(env!("CARGO_TARGET_TMPDIR")).join(directory);
        fs::create_dir_all(&files).unwrap();
        fs::write(files.join("resolv.conf"), format!("nameserver 127.0.0.1\n{resolv_conf}\n")).unwrap();
        fs::write(files.join("hosts"), hosts).unwrap();
        let resolver = Resolver::new(files.join("resolv.conf"), files.join("hosts"), port);
        Self { zones, asked, asked_v6, other, resolver, files, _clock }
    }

    fn set(&self, name: &str, zone: Zone) {
        set(&self.zones, name, zone);
    }

    fn set_addrs(&self, name: &str, ttl: u32, addrs: &[&str]) {
        self.set(name, Zone::Addrs { addrs: ips(addrs), ttl });
    }

    fn discover(&self, endpoints: &[&str], dns: Dns) -> List {
        self.follow(endpoints, dns).list
    }

    /// The same, with the names' state.
    fn follow(&self, endpoints: &[&str], dns: Dns) -> Discovery {
        discover(&hosts_and_ports(endpoints), false, dns, &self.resolver)
    }

    /// Waits for a question, and tells when it was asked.
    async fn asked(&mut self) -> Instant {
        timeout(PATIENCE, self.asked.recv()).await.expect("it is asked").unwrap().1
    }

    /// Lets time pass in small steps until a question is asked, and tells when that was.
    async fn asked_later(&mut self) -> Instant {
        next(&mut self.asked).await
    }

    /// Names of all questions so far.
    fn names(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.asked.try_recv().ok()).map(|(name, _)| name).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.files);
    }
}

impl Other {
    fn set(&self, name: &str, zone: Zone) {
        set(&self.zones, name, zone);
    }

    fn set_addrs(&self, name: &str, ttl: u32, addrs: &[&str]) {
        self.set(name, Zone::Addrs { addrs: ips(addrs), ttl });
    }
}

fn set(zones: &Zones, name: &str, zone: Zone) {
    zones.lock().unwrap().insert(format!("{name}."), zone);
}

/// Lets time pass in small steps until a question is asked, and tells when that was.
async fn next(asked: &mut Asked) -> Instant {
    let end = Instant::now() + 1_000 * SECOND;
    while Instant::now() < end {
        settle().await;
        if let Ok((_, when)) = asked.try_recv() {
            return when;
        }
        pass(SECOND / 4).await;
    }
    panic!("nobody asks")
}

fn serve((udp, tcp): (UdpSocket, TcpListener)) -> (Zones, Asked, Asked) {
    let zones = Zones::default();
    let (asking, asked) = mpsc::unbounded_channel();
    let (asking_v6, asked_v6) = mpsc::unbounded_channel();
    tokio::spawn(serve_udp(udp, Arc::clone(&zones), [asking, asking_v6]));
    tokio::spawn(serve_tcp(tcp, Arc::clone(&zones)));
    (zones, asked, asked_v6)
}

async fn serve_udp(socket: UdpSocket, zones: Zones, asking: [mpsc::UnboundedSender<(String, Instant)>; 2]) {
    let mut bytes = [0; 512];
    loop {
        let (read, client) = socket.recv_from(&mut bytes).await.unwrap();
        let query = Message::from_vec(&bytes[..read]).unwrap();
        let [v4, v6] = &asking;
        let asking = if query.queries[0].query_type() == RecordType::A { v4 } else { v6 };
        let _ = asking.send((query.queries[0].name().to_string(), Instant::now()));
        let Some(rsp) = answer(&query, &zones.lock().unwrap()) else { continue };
        let fits = |bytes: &Vec<u8>| bytes.len() <= 512;
        let bytes = rsp.to_vec().ok().filter(fits).unwrap_or_else(|| rsp.truncate().to_vec().unwrap());
        socket.send_to(&bytes, client).await.unwrap();
    }
}

async fn serve_tcp(listener: TcpListener, zones: Zones) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let zones = Arc::clone(&zones);
        tokio::spawn(async move {
            while let Ok(len) = stream.read_u16().await {
                let mut bytes = vec![0; len.into()];
                stream.read_exact(&mut bytes).await.unwrap();
                let query = Message::from_vec(&bytes).unwrap();
                let Some(rsp) = answer(&query, &zones.lock().unwrap()) else { continue };
                let rsp = rsp.to_vec().unwrap();
                stream.write_u16(rsp.len().try_into().unwrap()).await.unwrap();
                stream.write_all(&rsp).await.unwrap();
            }
        });
    }
}

/// `None`: silence.
fn answer(query: &Message, zones: &HashMap<String, Zone>) -> Option<Message> {
    let question = query.queries[0].clone();
    let (mut name, family) = (question.name().clone(), question.query_type());
    let mut rsp = Message::response(query.metadata.id, OpCode::Query);
    rsp.metadata.recursion_available = true;
    rsp.add_query(question);
    loop {
        match zones.get(&name.to_string().to_lowercase()) {
            Some(Zone::Addrs { addrs, ttl }) => {
                let addrs = addrs.iter().map(|ip| RData::from(*ip)).filter(|data| data.record_type() == family);
                rsp.add_answers(addrs.map(|data| Record::from_rdata(name.clone(), *ttl, data)));
            }
            Some(Zone::Alias { target, ttl }) => {
                let target = Name::from_ascii(target).unwrap();
                rsp.add_answer(Record::from_rdata(name, *ttl, RData::CNAME(CNAME(target.clone()))));
                name = target;
                continue;
            }
            Some(Zone::Families(v4, v6)) => match if family == RecordType::A { v4 } else { v6 } {
                Said::Addrs(addrs, ttl) => {
                    let records = addrs.iter().map(|ip| Record::from_rdata(name.clone(), *ttl, RData::from(*ip)));
                    rsp.add_answers(records.collect::<Vec<_>>());
                }
                Said::Code(code) => rsp.metadata.response_code = *code,
                Said::NoData(ttl) => {
                    let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, *ttl);
                    rsp.add_authority(Record::from_rdata(name, *ttl, RData::SOA(soa)));
                }
                Said::Referral => {
                    let server = Name::from_ascii("ns.test.").unwrap();
                    rsp.add_authority(Record::from_rdata(name, 60, RData::NS(NS(server))));
                }
                Said::Nothing => return None,
            },
            Some(Zone::Code(code)) => rsp.metadata.response_code = *code,
            None => rsp.metadata.response_code = ResponseCode::NXDomain,
        }
        return Some(rsp);
    }
}

fn ips(addrs: &[&str]) -> Vec<IpAddr> {
    addrs.iter().map(|addr| addr.parse().unwrap()).collect()
}

fn hosts_and_ports(endpoints: &[&str]) -> Vec<HostPort> {
    endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect()
}

/// Lets so much time pass, and the millisecond by which timers may be late.
async fn pass(time: Duration) {
    advance(time + Duration::from_millis(1)).await;
}

/// Lets so much time pass in small steps, after each of which all is done that is due.
async fn pass_slowly(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        pass(SECOND / 2).await;
        settle().await;
    }
}

/// Lets all tasks, and datagrams on loopback, get to where they wait for time to pass.
async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

fn addrs(list: &List) -> Vec<SocketAddr> {
    list.borrow().iter().map(|endpoint| endpoint.addr.addr).collect()
}

#[track_caller]
fn check(list: &List, expect: &[&str]) {
    let expect: Vec<SocketAddr> = expect.iter().map(|addr| addr.parse().unwrap()).collect();
    assert_eq!(addrs(list), expect);
}

async fn changed(list: &mut List) {
    timeout(PATIENCE, list.changed()).await.expect("it changes").expect("it is followed");
}

#[test]
fn ip_addresses_are_there_at_once_and_need_no_task() {
    let endpoints = hosts_and_ports(&["10.0.0.2:80", "[::1]:80", "10.0.0.1:80"]);
    let list = discover(&endpoints, false, UNBOUNDED, &Resolver::system()).list;
    check(&list, &["10.0.0.2:80", "[::1]:80", "10.0.0.1:80"]);
    assert!(list.has_changed().is_err(), "nothing will ever change");
}

#[tokio::test(start_paused = true)]
async fn a_name_is_all_its_addresses_of_both_families() {
    let server = Server::start().await;
    server.set_addrs("a.test", 5, &["10.0.0.3", "::2", "10.0.0.1", "::1", "10.0.0.1"]);
    let mut list = server.discover(&["10.9.9.9:1", "a.test:80", "10.0.0.0:2"], UNBOUNDED);
    check(&list, &["10.9.9.9:1", "10.0.0.0:2"]);
    changed(&mut list).await;
    check(&list, &["10.9.9.9:1", "10.0.0.1:80", "10.0.0.3:80", "[::1]:80", "[::2]:80", "10.0.0.0:2"]);
}

#[tokio::test(start_paused = true)]
async fn names_share_addresses_without_repeating_them() {
    let server = Server::start().await;
    server.set_addrs("a.test", 5, &["10.0.0.1", "10.0.0.2"]);
    let mut list = server.discover(&["a.test:80", "b.test:80", "a.test:81"], UNBOUNDED);
    list.wait_for(|list| list.len() == 4).await.unwrap();
    server.set_addrs("b.test", 5, &["10.0.0.3", "10.0.0.2"]);
    pass(5 * SECOND).await;
    changed(&mut list).await;
    check(&list, &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:81", "10.0.0.2:81"]);
}

#[tokio::test(start_paused = true)]
async fn an_address_has_the_host_it_was_found_by_and_is_another_target_under_another_one() {
    let server = Server::start().await;
    server.set_addrs("a.test", 5, &["10.0.0.1", "10.0.0.2"]);
    server.set_addrs("b.test", 1_000, &["10.0.0.2"]);
    let endpoints = hosts_and_ports(&["[::1]:80", "A.test:80", "b.test:80"]);
    let hosts = |list: &[Endpoint<Target>]| -> Vec<_> {
        list.iter().map(|one| format!("{} {}", one.addr.host.as_deref().unwrap(), one.addr)).collect()
    };
    let mut list = discover(&endpoints, true, UNBOUNDED, &server.resolver).list;
    let both = ["::1 [::1]:80", "a.test 10.0.0.1:80", "a.test 10.0.0.2:80"];
    list.wait_for(|list| hosts(list) == both).await.unwrap();
    server.set_addrs("a.test", 5, &["10.0.0.1"]);
    pass(5 * SECOND).await;
    let handed_over = ["::1 [::1]:80", "a.test 10.0.0.1:80", "b.test 10.0.0.2:80"];
    let there = list.wait_for(|list| hosts(list) == handed_over);
    timeout(PATIENCE, there).await.expect("it is b's now").unwrap();
}

#[tokio::test(start_paused = true)]
async fn addresses_change_when_their_ttl_is_over() {
    let mut server = Server::start().await;
    server.set_addrs("a.test", 60, &["10.0.0.1", "10.0.0.2"]);
    let mut list = server.discover(&["a.test:80"], UNBOUNDED);
    changed(&mut list).await;
    let first = server.asked().await;
    server.set_addrs("a.test", 5, &["10.0.0.2", "10.0.0.3", "::1"]);
    assert!((60 * SECOND..62 * SECOND).contains(&(server.asked_later().await - first)));
    changed(&mut list).await;
    check(&list, &["10.0.0.2:80", "10.0.0.3:80", "[::1]:80"]);
    server.set_addrs("a.test", 5, &["10.0.0.4"]);
    pass(5 * SECOND).await;
    changed(&mut list).await;
    check(&list, &["10.0.0.4:80"]);
}

#[tokio::test(start_paused = true)]
async fn the_same_addresses_in_another_order_are_no_change() {
    let mut server = Server::start().await;
    server.set_addrs("a.test", 5, &["10.0.0.1", "10.0.0.2"]);
    let mut list = server.discover(&["a.test:80"], UNBOUNDED);
    changed(&mut list).await;
    server.asked().await;
    server.set_addrs("a.test", 5, &["10.0.0.2", "10.0.0.1"]);
    // By the second question the answer to the first one counts.
    for _ in 0..2 {
        server.asked_later().await;
    }
    assert!(!list.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_alias_counts_for_as_long_as_all_on_the_way() {
    let mut server = Server::start().await;
    server.set("a.test", Zone::Alias { target: "b.test.", ttl: 7 });
    server.set_addrs("b.test", 50, &["10.0.0.1"]);
    let mut list = server.discover(&["a.test:80"], UNBOUNDED);
    changed(&mut list).await;
    check(&list, &["10.0.0.1:80"]);
    let first = server.asked().await;
    assert!((7 * SECOND..9 * SECOND).contains(&(server.asked_later().await - first)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_too_long_for_a_datagram_is_had_whole() {
    let server = Server::start().await;
    let addrs: Vec<String> = (0..400).map(|n| format!("10.0.{}.{}", n / 200, n % 200)).collect();
    server.set_addrs("a.test", 5, &addrs.iter().map(String::as_str).collect::<Vec<_>>());
    let mut list = server.discover(&["a.test:80"], UNBOUNDED);
    changed(&mut list).await;
    assert_eq!(list.borrow().len(), 400);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_stops_resolving_keeps_its_last_addresses() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let mut server = Server::start().await;
        server.set_addrs("a.test", 5, &["10.0.0.1", "::1"]);
        let mut list = server.discover(&["a.test:80"], UNBOUNDED);
        changed(&mut list).await;
        server.asked().await;
        server.set("a.test", Zone::Code(code));
        // By the last question the first answers count.
        for _ in 0..4 {
            server.asked_later().await;
        }
        assert!(!list.has_changed().unwrap(), "{code}");
        check(&list, &["10.0.0.1:80", "[::1]:80"]);

        server.set_addrs("a.test", 5, &["10.0.0.2"]);
        pass(30 * SECOND).await;
        changed(&mut list).await;
        check(&list, &["10.0.0.2:80"]);
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_ever_less_often() {
    let unbounded = [1, 2, 4, 8, 16, 30, 30];
    let bounded = [1, 2, 3, 3, 3, 3, 3];
    for (max_ttl, waits) in [(None, unbounded), (Some(3 * SECOND), bounded)] {
        let mut server = Server::start().await;
        let _list = server.discover(&["a.test:80"], Dns { max_ttl, ..UNBOUNDED });
        let mut last = server.asked().await;
        for wait in waits {
            let next = server.asked_later().await;
            let wait = wait * SECOND;
            assert!((wait..wait + 2 * SECOND).contains(&(next - last)), "{:?} for {wait:?}", next - last);
            last = next;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_family_that_fails_alone_keeps_its_last_addresses() {
    let mut server = Server::start().await;
    server.set_addrs("a.test", 5, &["10.0.0.1", "::1"]);
    let mut list = server.discover(&["a.test:80"], UNBOUNDED);
    changed(&mut list).await;
    server.asked().await;
    let failure = Said::Code(ResponseCode::ServFail);
    server.set("a.test", Zone::Families(Said::Addrs(ips(&["10.0.0.2"]), 5), failure));
    server.asked_later().await;
    changed(&mut list).await;
    check(&list, &["10.0.0.2:80", "[::1]:80"]);
    // That there is none is no failure.
    server.set_addrs("a.test", 5, &["10.0.0.2"]);
    pass(5 * SECOND).await;
    changed(&mut list).await;
    check(&list, &["10.0.0.2:80"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_never_resolves_holds_up_no_other() {
    let server = Server::start().await;
    server.set("bad.test", Zone::Code(ResponseCode::ServFail));
    server.set_addrs("good.test", 5, &["10.0.0.1"]);
    let mut list = server.discover(&["bad.test:80", "good.test:80", "none.test:80"], UNBOUNDED);
    changed(&mut list).await;
    check(&list, &["10.0.0.1:80"]);
    server.set_addrs("bad.test", 5, &["10.0.0.2"]);
    pass(2 * SECOND).await;
    changed(&mut list).await;
    check(&list, &["10.0.0.2:80", "10.0.0.1:80"]);
}

#[tokio::test(start_paused = true)]
async fn bounds_win_over_the_ttl_and_nothing_wins_over_a_second() {
    let bounds = |min: Option<u64>, max: Option<u64>| Dns {
        min_ttl: min.map(Duration::from_millis),
        max_ttl: max.map(Duration::from_millis),
        negative_hold: HOLD,
    };
    for (ttl, bounds, wait) in [
        (5, bounds(None, None), 5),
        (5, bounds(Some(20_000), None), 20),
        (5, bounds(Some(20_000), Some(20_000)), 20),
        (5, bounds(Some(2_000), Some(20_000)), 5),
        (50, bounds(None, Some(20_000)), 20),
        (0, bounds(None, None), 1),
        (0, bounds(Some(10), None), 1),
        (50, bounds(None, Some(0)), 1),
    ] {
        let mut server = Server::start().await;
        server.set_addrs("a.test", ttl, &["10.0.0.1"]);
        let mut list = server.discover(&["a.test:80"], bounds);
        changed(&mut list).await;
        let first = server.asked().await;
        let (waited, wait) = (server.asked_later().await - first, wait * SECOND);
        assert!((wait..wait + 2 * SECOND).contains(&waited), "TTL {ttl}, {bounds:?}: {waited:?}");
    }
}

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

#[tokio::test(start_paused = true)]
async fn tasks_end_with_the_last_receiver() {
    let mut server = Server::start().await;
    server.set_addrs("a.test", 500, &["10.0.0.1"]);
    let before = Handle::current().metrics().num_alive_tasks();
    let mut list = server.discover(&["a.test:80", "none.test:80"], UNBOUNDED);
    changed(&mut list).await;
    let other = list.clone();
    drop(list);
    settle().await;
    assert!(Handle::current().metrics().num_alive_tasks() >= before + 2);
    drop(other);
    // The last clone of it but for the tasks'; it has tasks of its own.
    server.resolver = Resolver::system();
    settle().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before);
    server.names();
    pass(1_000 * SECOND).await;
    settle().await;
    assert!(server.names().is_empty());
}

/// Endpoints at one port of several loopback addresses, each of which answers with its own address: at once, or on
/// `/held` when `release` is told.
struct Backends {
    port: u16,
    release: Arc<Notify>,
}

impl Backends {
    async fn start(addrs: &[&str]) -> Self {
        let release = Arc::<Notify>::default();
        let listeners = loop {
            let first = TcpListener::bind((addrs[0], 0)).await.unwrap();
            let port = first.local_addr().unwrap().port();
            let mut listeners = vec![first];
            for addr in &addrs[1..] {
                listeners.extend(TcpListener::bind((*addr, port)).await);
            }
            // The port may be taken at one of them, in which case there is another one.
            if listeners.len() == addrs.len() {
                break listeners;
            }
        };
        let port = listeners[0].local_addr().unwrap().port();
        for listener in listeners {
            let release = Arc::clone(&release);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(Self::serve(stream, Arc::clone(&release)));
                }
            });
        }
        Self { port, release }
    }

    async fn serve(stream: TcpStream, release: Arc<Notify>) {
        let ip = stream.local_addr().unwrap().ip().to_string();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((req, mut respond))) = connection.accept().await {
            let (ip, release) = (ip.clone(), Arc::clone(&release));
            tokio::spawn(async move {
                if req.uri().path() == "/held" {
                    release.notified().await;
                }
                respond.send_response(Response::builder().header("ip", ip).body(()).unwrap(), true).unwrap();
            });
        }
    }
}

/// A client of a proxy to the endpoints of a list.
async fn client_of(list: List) -> h2::client::SendRequest<Bytes> {
    let connector = tower::service_fn(|target: Target| TcpStream::connect(target.addr));
    let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap();
    let params = balance::Params { slow_start: Duration::ZERO, ..Default::default() };
    let endpoints = Endpoints::spawn(list, &connect, params);
    let limits = Arc::new(proxy::Limits::new(proxy::Params::default()));
    let proxy = Proxy::new(endpoints, limits, Arc::default());
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        proxy_http::Server::new(&ServerParams::DEFAULT)?.serve(far, proxy, pending()).await.map_err(BoxError::from)
    });
    let (client, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Sends a request; the result is the address of the endpoint that answers.
async fn ask(client: &mut h2::client::SendRequest<Bytes>, path: &str) -> impl Future<Output = String> + use<> {
    let req = Request::get(format!("http://a.test{path}")).body(()).unwrap();
    poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
    let (response, _) = client.send_request(req, true).unwrap();
    async move { response.await.unwrap().headers()["ip"].to_str().unwrap().to_owned() }
}

/// Asks until each of `expect` has answered, and then on; nobody else may.
async fn check_answers(client: &mut h2::client::SendRequest<Bytes>, expect: &[&str]) {
    let mut answered = BTreeSet::new();
    let mut after = 0;
    while after < 50 {
        answered.insert(timeout(PATIENCE, ask(client, "/").await).await.unwrap());
        after += usize::from(answered.len() >= expect.len());
    }
    assert_eq!(answered.iter().map(String::as_str).collect::<Vec<_>>(), expect);
}

#[tokio::test(start_paused = true)]
async fn requests_follow_the_addresses_of_a_name_and_those_in_flight_stay() {
    const SOME: [&str; 3] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let mut server = Server::start().await;
    let backends = Backends::start(&SOME).await;
    server.set_addrs("a.test", 5, &SOME[..1]);
    let mut list = server.discover(&[&format!("a.test:{}", backends.port)], UNBOUNDED);
    let mut client = client_of(list.clone()).await;
    check_answers(&mut client, &SOME[..1]).await;
    let first = server.asked().await;
    let held = ask(&mut client, "/held").await;

    server.set_addrs("a.test", 5, &SOME[1..]);
    check_answers(&mut client, &SOME[..1]).await;
    changed(&mut list).await;
    assert!(server.asked_later().await - first >= 5 * SECOND);
    changed(&mut list).await;
    timeout(PATIENCE, async { while ask(&mut client, "/").await.await != SOME[2] {} }).await.unwrap();
    check_answers(&mut client, &SOME[1..]).await;

    // A name that is gone leaves its addresses.
    server.set("a.test", Zone::Code(ResponseCode::NXDomain));
    for _ in 0..2 {
        server.asked_later().await;
    }
    check_answers(&mut client, &SOME[1..]).await;
    backends.release.notify_one();
    assert_eq!(timeout(PATIENCE, held).await.unwrap(), SOME[0]);
}
