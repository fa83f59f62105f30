//! Discovery against a DNS server on loopback. The clock stands still but for `pass`, so a TTL costs no time.

use crate::support::PATIENCE;
use app::dns::{Discovery, Resolver, Target, discover};
use app_env::{Dns, EndpointAddr};
use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, NS, SOA, SRV},
    },
};
use proxy_http::Endpoint;
use std::{
    collections::HashMap,
    fs,
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
    net::{TcpListener, UdpSocket},
    runtime::Handle,
    sync::{mpsc, watch},
    task::yield_now,
    time::{Instant, advance, timeout},
};

mod failures;
mod families;
mod negative;
mod requests;
mod servers;
mod service;
mod system;

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
    /// SRV records of priority, weight, port and target; no addresses.
    Services {
        records: Vec<(u16, u16, u16, String)>,
        ttl: u32,
    },
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
            Some(Zone::Services { records, ttl }) if family == RecordType::SRV => {
                rsp.add_answers(records.iter().map(|(priority, weight, port, target)| {
                    let target = Name::from_ascii(target).unwrap();
                    let data = RData::SRV(SRV::new(*priority, *weight, *port, target));
                    Record::from_rdata(name.clone(), *ttl, data)
                }));
            }
            Some(Zone::Services { .. }) => {}
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

fn hosts_and_ports(endpoints: &[&str]) -> Vec<EndpointAddr> {
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
    list.borrow().iter().map(|endpoint| endpoint.addr.addr.tcp().unwrap()).collect()
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
