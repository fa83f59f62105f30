//! Measures a path: round trip by PING, time to the first byte, bandwidth by downloads.

use super::Path;
use bytes::Bytes;
use h2::{Ping, client};
use http::{Request, Uri, uri::Authority};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use std::{error::Error, fmt, future::poll_fn, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

/// The options of a measurement.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port` of a server that speaks HTTP/2.
    pub authority: String,
    /// TLS. `None`: there is none.
    pub tls: Option<Tls>,
    /// The path to fetch for the bandwidth; the larger the response, the better.
    pub path: String,
    /// Downloads at once.
    pub streams: usize,
    /// How long to download.
    pub time: Duration,
}

/// How a server's certificate is verified.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// A PEM file of authorities. `None`: the ones that the system trusts.
    pub ca: Option<PathBuf>,
}

/// A path, and the reasons to doubt its figures.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The path.
    pub path: Path,
    /// The least time from a first request to the first byte of its response.
    pub first_byte: Duration,
    /// Bytes of the longest response that ended. `None`: none did.
    pub response: Option<u64>,
    /// The share of the downloads' time that was spent before first bytes, 0.0..=1.0.
    pub waiting: f64,
}

/// What one stream has downloaded.
#[derive(Clone, Copy, Debug, Default)]
struct Downloaded {
    bytes: u64,
    longest: Option<u64>,
    /// Of the first response, for which nothing was on the way before.
    first_byte: Option<Duration>,
    waiting: Duration,
}

type BoxError = Box<dyn Error + Send + Sync>;

const PINGS: usize = 11;
/// Windows that never bind.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// More than this share of the time before first bytes, and the bandwidth is that of the requests.
const MUCH_WAITING: f64 = 0.2;

impl Path {
    /// Measures a server: its round trip by PING, its bandwidth by downloads over windows that never bind.
    ///
    /// # Errors
    ///
    /// When it cannot be reached, does not speak HTTP/2, or has a certificate that cannot be verified. The address is named.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn measure(target: &Target) -> Result<Measured, BoxError> {
        let measured = async {
            let io = TcpStream::connect(&target.authority).await?;
            io.set_nodelay(true)?;
            match &target.tls {
                None => Measured::over(io, target).await,
                Some(tls) => {
                    let authority: Authority = target.authority.parse()?;
                    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
                    let io = tls.connector()?.connect(ServerName::try_from(host)?, io).await?;
                    if io.get_ref().1.alpn_protocol() != Some(b"h2") {
                        return Err("does not speak HTTP/2: ALPN did not choose h2".into());
                    }
                    Measured::over(io, target).await
                }
            }
        };
        measured.await.map_err(|error: BoxError| format!("{}: {}", target.authority, chain(&*error)).into())
    }
}

/// The error of a server that does not answer PING: it speaks HTTP/1.1, or TLS, or ended the connection for another reason.
fn unanswered(error: &h2::Error, target: &Target) -> String {
    let tls = if target.tls.is_none() { ", speaks TLS (--tls)," } else { "" };
    format!("does not speak HTTP/2{tls} or ended the connection: {error}")
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(error) = next {
        text.push_str(&format!(": {error}"));
        next = error.source();
    }
    text
}

// === impl Tls ===

impl Tls {
    fn connector(&self) -> Result<TlsConnector, BoxError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for cert in CertificateDer::pem_file_iter(path)? {
                    roots.add(cert?)?;
                }
            }
            None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

// === impl Measured ===

impl Measured {
    pub(super) async fn over<I>(io: I, target: &Target) -> Result<Self, BoxError>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let (client, mut connection) = builder.handshake::<_, Bytes>(io).await?;
        let mut pings = connection.ping_pong().ok_or("the connection takes no PING")?;
        // Aborted when this is done.
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { connection.await.unwrap_or_default() });
        let mut times = Vec::new();
        for _ in 0..PINGS {
            let start = Instant::now();
            pings.ping(Ping::opaque()).await.map_err(|error| unanswered(&error, target))?;
            times.push(start.elapsed());
        }
        times.sort();

        let scheme = if target.tls.is_some() { "https" } else { "http" };
        let uri: Uri = format!("{scheme}://{}{}", target.authority, target.path).parse()?;
        let mut downloads = JoinSet::new();
        let start = Instant::now();
        let until = start + target.time;
        let streams = target.streams.max(1);
        for _ in 0..streams {
            downloads.spawn(download(client.clone(), uri.clone(), until));
        }
        let mut all = Downloaded::default();
        while let Some(downloaded) = downloads.join_next().await {
            let Downloaded { bytes, longest, first_byte, waiting } = downloaded??;
            all = Downloaded {
                bytes: all.bytes + bytes,
                longest: all.longest.max(longest),
                first_byte: all.first_byte.into_iter().chain(first_byte).min(),
                waiting: all.waiting + waiting,
            };
        }
        let time = start.elapsed().as_secs_f64();
        if all.bytes == 0 {
            return Err(format!("{} answers with nothing: name another --path", target.path).into());
        }
        let path = Path { rtt: times[PINGS / 2], bits_per_second: all.bytes as f64 * 8.0 / time };
        let waiting = all.waiting.as_secs_f64() / (time * streams as f64);
        Ok(Self { path, first_byte: all.first_byte.unwrap_or_default(), response: all.longest, waiting })
    }

    /// Whether responses ended before a window did, so that the bandwidth is that of requests one after the other.
    pub fn is_response_small(&self) -> bool {
        self.response.is_some_and(|bytes| bytes < u64::from(STREAM_WINDOW)) && self.waiting > MUCH_WAITING
    }

    /// Whether PINGs are answered nearer than requests, by a proxy on the way.
    pub fn is_ping_near(&self) -> bool {
        self.first_byte > self.path.rtt * 2 + Duration::from_millis(5)
    }
}

impl fmt::Display for Measured {
    /// Warnings, one a line; nothing if there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let Self { path, first_byte, response, waiting } = self;
        if self.is_response_small() {
            writeln!(
                f,
                "warning: responses of {} bytes ended before a window did, and {:.0} % of the time went by before their first \
                 bytes. The path carries more than was measured; name a --path with a larger response, or --mbits and --rtt-ms",
                response.unwrap_or_default(),
                waiting * 100.0,
            )?;
        }
        if self.is_ping_near() {
            writeln!(
                f,
                "warning: PING takes {:.2} ms, the first byte of a response {:.2} ms. If a proxy on the way answers PINGs, this is \
                 the path to that one; measure the path behind it from there, or give --rtt-ms and --mbits",
                ms(path.rtt),
                ms(*first_byte),
            )?;
        }
        Ok(())
    }
}

async fn request(client: &client::SendRequest<Bytes>, uri: &Uri) -> Result<h2::RecvStream, h2::Error> {
    let mut client = client.clone().ready().await?;
    let mut req = Request::new(());
    *req.uri_mut() = uri.clone();
    Ok(client.send_request(req, true)?.0.await?.into_body())
}

/// Downloads again and again, until time is up.
async fn download(client: client::SendRequest<Bytes>, uri: Uri, until: Instant) -> Result<Downloaded, BoxError> {
    let mut downloaded = Downloaded::default();
    let all = async {
        loop {
            let start = Instant::now();
            let mut body = request(&client, &uri).await?;
            let waited = start.elapsed();
            downloaded.first_byte.get_or_insert(waited);
            downloaded.waiting += waited;
            let mut length = 0;
            while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
                let data = data?;
                length += data.len() as u64;
                downloaded.bytes += data.len() as u64;
                body.flow_control().release_capacity(data.len())?;
            }
            downloaded.longest = downloaded.longest.max(Some(length));
        }
    };
    let ended: Result<Result<(), h2::Error>, _> = timeout_at(until, all).await;
    // It goes on until time is up.
    ended.unwrap_or(Ok(()))?;
    Ok(downloaded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        link::{Direction, Link},
        load::{Endpoint, serve_endpoint},
        timer::Clock,
    };
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use std::{env, fs, process};
    use tokio::{
        io::{AsyncWriteExt as _, copy_bidirectional, duplex},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    fn target(authority: &str, path: &str) -> Target {
        Target {
            authority: authority.to_owned(),
            tls: None,
            path: path.to_owned(),
            streams: 2,
            time: Duration::from_secs(1),
        }
    }

    /// Measures a link with a round trip of 20 ms and 50 Mbit/s.
    async fn measure(path: &str) -> Measured {
        let both = Direction::of_round_trip(Duration::from_millis(20), 50);
        let (near, far) = Link::new(both, both, Clock::Tokio).pair().unwrap();
        tokio::spawn(serve_endpoint(far, Arc::default()));
        Measured::over(near, &target("bench.example", path)).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_of_http1_is_named_as_such() {
        let (near, mut far) = duplex(1 << 16);
        tokio::spawn(async move { far.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await });
        let error = Measured::over(near, &target("bench.example", "/")).await.unwrap_err().to_string();
        assert!(error.starts_with("does not speak HTTP/2, speaks TLS (--tls), or ended the connection: "), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn measures_what_the_link_is() {
        let measured = measure("/bytes/16777216").await;
        let path = measured.path;
        assert!((19.0..=21.0).contains(&(path.rtt.as_secs_f64() * 1e3)), "{path:?}");
        assert!((47e6..=51e6).contains(&path.bits_per_second), "{path:?}");
        assert_eq!(measured.to_string(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_response_is_told_of() {
        let measured = measure("/bytes/1000").await;
        assert!(measured.is_response_small() && !measured.is_ping_near(), "{measured:?}");
        assert!(measured.to_string().contains("responses of 1000 bytes ended before a window did"), "{measured}");
    }

    #[test]
    fn pings_that_are_answered_nearer_than_requests_are_told_of() {
        let path = Path { rtt: Duration::from_millis(1), bits_per_second: 1e9 };
        let measured = |ms| Measured { path, first_byte: Duration::from_millis(ms), response: None, waiting: 0.0 };
        assert!(measured(41).to_string().contains("PING takes 1.00 ms, the first byte of a response 41.00 ms"));
        assert_eq!(measured(3).to_string(), "");
    }

    #[tokio::test]
    async fn measures_over_tcp_and_names_the_address_in_errors() {
        let endpoint = Endpoint::spawn().await.unwrap();
        let target = Target { time: Duration::from_millis(50), ..target(&endpoint.addr().to_string(), "/bytes/65536") };
        let path = Path::measure(&target).await.unwrap().path;
        assert!(path.rtt > Duration::ZERO && path.bits_per_second > 0.0, "{path:?}");
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let error = Path::measure(&Target { authority: free.clone(), ..target }).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{free}: ")), "{error}");
    }

    #[tokio::test]
    async fn measures_over_tls() {
        let endpoint = Endpoint::spawn().await.unwrap();
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (acceptor, to) = (TlsAcceptor::from(Arc::new(config)), endpoint.addr());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(mut near) = acceptor.accept(near).await else { continue };
                let mut far = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
        let ca = env::temp_dir().join(format!("benches-tune-{}.pem", process::id()));
        fs::write(&ca, cert.pem()).unwrap();
        let tls = Some(Tls { ca: Some(ca.clone()) });
        let target =
            Target { tls, time: Duration::from_millis(50), ..target(&format!("localhost:{port}"), "/bytes/65536") };
        let measured = Path::measure(&target).await;
        fs::remove_file(ca).unwrap();
        assert!(measured.unwrap().path.bits_per_second > 0.0);
        let error = Path::measure(&Target { tls: Some(Tls::default()), ..target }).await.unwrap_err().to_string();
        assert!(error.contains("localhost") && error.contains("certificate"), "{error}");
    }
}
