//! Connections with or without TLS.

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Both ends of TLS.
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    http1: TlsConnector,
    http2: TlsConnector,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<I: AsyncRead + AsyncWrite + Send + Unpin> Stream for I {}

/// A connection, whatever is under it.
pub(crate) type Io = Box<dyn Stream>;

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

// === impl Tls ===

impl Tls {
    /// With the files of a directory.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let path = |name: &str| dir.join(name);
        let chain: Vec<_> = CertificateDer::pem_file_iter(path("tls.pem"))
            .map_err(io::Error::other)?
            .collect::<Result<_, _>>()
            .map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_file(path("tls.key")).map_err(io::Error::other)?;
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(path("ca.pem")).map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
        let roots = Arc::new(roots);
        let server = ServerConfig::builder().with_no_client_auth().with_single_cert(chain.clone(), key.clone_key());
        let mut server = server.map_err(io::Error::other)?;
        server.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        let connector = |protocol: &[u8]| {
            let builder = ClientConfig::builder().with_root_certificates(Arc::clone(&roots));
            let mut config = builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(io::Error::other)?;
            config.alpn_protocols = vec![protocol.to_vec()];
            io::Result::Ok(TlsConnector::from(Arc::new(config)))
        };
        Ok(Self { acceptor: Arc::new(server).into(), http1: connector(HTTP1)?, http2: connector(HTTP2)? })
    }
}

/// A client's connection.
pub(crate) async fn connect(addr: SocketAddr, tls: Option<&Tls>, http2: bool) -> io::Result<Io> {
    let io = TcpStream::connect(addr).await?;
    io.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(io)) };
    let connector = if http2 { &tls.http2 } else { &tls.http1 };
    Ok(Box::new(connector.connect(ServerName::IpAddress(addr.ip().into()), io).await?))
}

/// An endpoint's, and whether HTTP/2 comes on it.
pub(crate) async fn accept(io: TcpStream, tls: Option<&Tls>) -> io::Result<(Io, bool)> {
    io.set_nodelay(true)?;
    if let Some(tls) = tls {
        let io = tls.acceptor.accept(io).await?;
        let is_http2 = io.get_ref().1.alpn_protocol() == Some(HTTP2);
        return Ok((Box::new(io), is_http2));
    }
    let mut start = [0; 3];
    loop {
        match io.peek(&mut start).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            3 => return Ok((Box::new(io), start == *b"PRI")),
            _ => sleep(Duration::from_millis(1)).await,
        }
    }
}
