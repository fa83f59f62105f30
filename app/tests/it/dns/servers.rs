//! Several name servers: the first usable answer counts, in the order of resolv.conf.

use super::{
    SECOND, Said, Server, UNBOUNDED, Zone, addrs, check, families::time_until, ips, next, pass_slowly, settle,
};
use app::dns::NameState;
use hickory_resolver::proto::op::ResponseCode;
use std::{
    io,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};
use tracing::{Dispatch, subscriber::NoSubscriber};
use tracing_subscriber::fmt::MakeWriter;

const TWO: &str = "nameserver 127.0.0.2";

const MILLISECOND: Duration = Duration::from_millis(1);

/// With a single subscriber tracing asks only the thread that comes to a callsite first whether its lines are of interest, and that may be
/// another test's, which has none: then no thread's lines are. These two, which take no lines, have it ask all subscribers.
static SUBSCRIBERS: LazyLock<[Dispatch; 2]> = LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::new())));

/// Responses that are no answer, and silence.
fn unusable() -> Vec<Said> {
    let codes = [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp, ResponseCode::FormErr];
    let unknown = ResponseCode::Unknown(15);
    codes.into_iter().chain([unknown]).map(Said::Code).chain([Said::Referral, Said::Nothing]).collect()
}

/// Lines of the log of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        LazyLock::force(&SUBSCRIBERS);
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn count(&self, words: &[&str]) -> usize {
        self.text().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn one_name_server_without_an_answer_is_made_up_for_by_the_other() {
    for said in unusable() {
        for bad_first in [true, false] {
            let server = Server::start_with(TWO, "").await;
            let set_good = |ttl, addrs: &[&str]| match bad_first {
                true => server.other.set_addrs("a.test", ttl, addrs),
                false => server.set_addrs("a.test", ttl, addrs),
            };
            let bad = Zone::Families(said.clone(), said.clone());
            if bad_first {
                server.set("a.test", bad)
            } else {
                server.other.set("a.test", bad)
            }
            set_good(5, &["10.0.0.1", "::1"]);
            let list = server.discover(&["a.test:80"], UNBOUNDED);
            let most = if matches!(said, Said::Nothing) { 650 * MILLISECOND } else { 60 * MILLISECOND };
            let waited = time_until(&list, &["10.0.0.1:80", "[::1]:80"]).await;
            assert!(waited <= most, "{said:?}, bad first: {bad_first}: {waited:?}");
            // Changes come at their TTL. A server that is known to be silent holds up nothing.
            for changed in ["10.0.0.2", "10.0.0.3"] {
                set_good(5, &[changed, "::1"]);
                let expect = [&format!("{changed}:80"), "[::1]:80"];
                let waited = time_until(&list, &expect).await;
                assert!(waited <= 5_500 * MILLISECOND, "{said:?}, bad first: {bad_first}: {waited:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_been_silent_is_first_again_once_it_answers() {
    let server = Server::start_with(TWO, "").await;
    server.set("a.test", Zone::Families(Said::Nothing, Said::Nothing));
    server.other.set_addrs("a.test", 1, &["10.0.0.2"]);
    let list = server.discover(&["a.test:80"], UNBOUNDED);
    time_until(&list, &["10.0.0.2:80"]).await;
    server.set_addrs("a.test", 1, &["10.0.0.1"]);
    let waited = time_until(&list, &["10.0.0.1:80"]).await;
    assert!(waited <= 32 * SECOND, "{waited:?}");
    for _ in 0..40 {
        pass_slowly(2 * SECOND).await;
        check(&list, &["10.0.0.1:80"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_usable_answer_counts_as_for_libc() {
    for none in [ResponseCode::NXDomain, ResponseCode::NoError] {
        // There is none, by the first server: the second one is not asked.
        let mut server = Server::start_with(TWO, "").await;
        server.set("a.test", Zone::Code(none));
        server.other.set_addrs("a.test", 5, &["10.0.0.1"]);
        let found = server.follow(&["a.test.:80"], UNBOUNDED);
        for _ in 0..5 {
            server.asked_later().await;
        }
        settle().await;
        assert!(addrs(&found.list).is_empty());
        assert_eq!(found.names.status()[0].1.state, NameState::Gone);
        assert!(server.other.asked.try_recv().is_err());

        let mut server = Server::start_with(TWO, "").await;
        server.set_addrs("a.test", 5, &["10.0.0.1"]);
        server.other.set("a.test", Zone::Code(none));
        let found = server.follow(&["a.test.:80"], UNBOUNDED);
        for _ in 0..5 {
            server.asked_later().await;
            settle().await;
            check(&found.list, &["10.0.0.1:80"]);
        }
        assert!(server.other.asked.try_recv().is_err());

        // That there is none is an answer where the first server has none.
        let mut server = Server::start_with(TWO, "").await;
        server.set("a.test", Zone::Code(ResponseCode::ServFail));
        server.other.set("a.test", Zone::Code(none));
        let found = server.follow(&["a.test.:80"], UNBOUNDED);
        next(&mut server.other.asked).await;
        settle().await;
        assert_eq!(found.names.status()[0].1.state, NameState::Gone);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_usable_answer_the_addresses_stay() {
    for said in unusable() {
        let server = Server::start_with(TWO, "").await;
        server.set_addrs("a.test", 5, &["10.0.0.1", "::1"]);
        let found = server.follow(&["a.test:80"], UNBOUNDED);
        time_until(&found.list, &["10.0.0.1:80", "[::1]:80"]).await;
        server.set("a.test", Zone::Families(said.clone(), said.clone()));
        server.other.set("a.test", Zone::Code(ResponseCode::ServFail));
        pass_slowly(100 * SECOND).await;
        check(&found.list, &["10.0.0.1:80", "[::1]:80"]);
        assert_eq!(found.names.status()[0].1.state, NameState::Kept, "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_search_list_goes_on_past_responses_and_not_past_silence() {
    for said in unusable() {
        let server = Server::start_with("search one.test two.test", "").await;
        server.set("web.one.test", Zone::Families(said.clone(), said.clone()));
        server.set_addrs("web.two.test", 5, &["10.0.0.1"]);
        let list = server.discover(&["web:80"], UNBOUNDED);
        pass_slowly(20 * SECOND).await;
        let expect: &[&str] = if matches!(said, Said::Nothing) { &[] } else { &["10.0.0.1:80"] };
        check(&list, expect);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_too_long_for_a_datagram_comes_from_the_second_server() {
    for said in unusable() {
        let server = Server::start_with(TWO, "").await;
        let many: Vec<String> = (0..100).map(|n| format!("10.0.0.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        server.set("a.test", Zone::Families(said.clone(), said.clone()));
        server.other.set("a.test", Zone::Families(Said::Addrs(ips(&many), 5), Said::NoData(5)));
        let list = server.discover(&["a.test:80"], UNBOUNDED);
        let expect: Vec<String> = many.iter().map(|addr| format!("{addr}:80")).collect();
        time_until(&list, &expect.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_names_the_server_that_does_not_answer_once_a_minute() {
    for (said, reason) in [
        (Said::Code(ResponseCode::ServFail), "Server Failure"),
        (Said::Code(ResponseCode::Refused), "Query Refused"),
        (Said::Nothing, "nothing came within 500ms"),
    ] {
        let (log, _guard) = Log::start();
        let server = Server::start_with(TWO, "").await;
        server.set("a.test", Zone::Families(said.clone(), said));
        server.other.set_addrs("a.test", 1, &["10.0.0.1", "::1"]);
        let list = server.discover(&["a.test:80"], UNBOUNDED);
        time_until(&list, &["10.0.0.1:80", "[::1]:80"]).await;
        let warning = ["WARN", "name server does not answer", "server=127.0.0.1", reason];
        assert_eq!(log.count(&warning), 1, "{}", log.text());
        pass_slowly(100 * SECOND).await;
        assert_eq!(log.count(&warning), 2, "{}", log.text());
        assert_eq!(log.count(&["server=127.0.0.2"]), 0);
        server.set_addrs("a.test", 1, &["10.0.0.1", "::1"]);
        pass_slowly(100 * SECOND).await;
        assert_eq!(log.count(&["INFO", "name server answers again", "server=127.0.0.1"]), 1, "{}", log.text());
        assert_eq!(log.count(&["does not resolve"]), 0);
    }
}
