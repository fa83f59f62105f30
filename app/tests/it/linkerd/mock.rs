//! A control plane that a test scripts.

use crate::support::{PATIENCE, accepted, bind};
use futures_util::stream::{BoxStream, StreamExt as _, poll_fn};
use linkerd2_proxy_api::{
    destination::{
        AddrSet, DestinationProfile, GetDestination, NoEndpoints, Update, WeightedAddr, WeightedAddrSet,
        destination_server::{Destination, DestinationServer},
        update::Update as Kind,
    },
    net::TcpAddress,
};
use std::net::SocketAddr;
use tokio::{
    runtime::Runtime,
    sync::{Mutex, mpsc, oneshot},
    time::timeout,
};
use tonic::{Request, Response, Status, transport::Server};

/// A server of the destination API, on a thread of its own, so that it can be killed.
pub(super) struct Mock {
    pub(super) addr: SocketAddr,
    runtime: Option<Runtime>,
    go_away: Option<oneshot::Sender<()>>,
    gets: Mutex<mpsc::UnboundedReceiver<Asked<Update>>>,
    profiles: Mutex<mpsc::UnboundedReceiver<Asked<DestinationProfile>>>,
}

/// A question, and the stream of its answers, which ends with this value.
pub(super) struct Asked<M> {
    pub(super) question: GetDestination,
    /// Of the proxy's connection.
    pub(super) from: SocketAddr,
    answers: mpsc::UnboundedSender<Result<M, Status>>,
}

struct Service {
    gets: mpsc::UnboundedSender<Asked<Update>>,
    profiles: mpsc::UnboundedSender<Asked<DestinationProfile>>,
}

impl Mock {
    pub(super) async fn start() -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap()).await
    }

    pub(super) async fn start_on(addr: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (get, gets) = mpsc::unbounded_channel();
        let (profile, profiles) = mpsc::unbounded_channel();
        let (go_away, going_away) = oneshot::channel::<()>();
        let (bound, addr_bound) = oneshot::channel();
        runtime.spawn(async move {
            let listener = bind(addr).await;
            bound.send(listener.local_addr().unwrap()).unwrap();
            let incoming = accepted(listener);
            let service = DestinationServer::new(Service { gets: get, profiles: profile });
            let told = async { _ = going_away.await };
            Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, told).await.unwrap();
        });
        let addr = timeout(PATIENCE, addr_bound).await.expect("the address becomes free").unwrap();
        let (gets, profiles) = (Mutex::new(gets), Mutex::new(profiles));
        Self { addr, runtime: Some(runtime), go_away: Some(go_away), gets, profiles }
    }

    /// The next question for endpoints.
    pub(super) async fn asked(&self) -> Asked<Update> {
        timeout(PATIENCE, self.gets.lock().await.recv()).await.expect("it is asked").unwrap()
    }

    /// The next question for endpoints, if there is one already.
    pub(super) async fn was_asked(&self) -> Option<Asked<Update>> {
        self.gets.lock().await.try_recv().ok()
    }

    /// The next question for a profile.
    pub(super) async fn asked_profile(&self) -> Asked<DestinationProfile> {
        timeout(PATIENCE, self.profiles.lock().await.recv()).await.expect("it is asked").unwrap()
    }

    /// Closes all connections at once.
    pub(super) fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// Sends GOAWAY on all connections, whose streams go on, and takes no more of them.
    pub(super) fn go_away(&mut self) {
        self.go_away.take().unwrap().send(()).unwrap();
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl<M> Asked<M> {
    pub(super) fn path(&self) -> &str {
        &self.question.path
    }

    pub(super) fn send(&self, message: M) {
        self.answers.send(Ok(message)).unwrap();
    }

    pub(super) fn reject(self, status: Status) {
        self.answers.send(Err(status)).unwrap();
    }

    /// Waits until the proxy has ended the stream.
    pub(super) async fn ended(&self) {
        timeout(PATIENCE, self.answers.closed()).await.expect("the stream ends");
    }
}

impl Asked<Update> {
    pub(super) fn add(&self, addrs: impl IntoIterator<Item = WeightedAddr>) {
        self.add_labelled(addrs, &[]);
    }

    pub(super) fn add_labelled(&self, addrs: impl IntoIterator<Item = WeightedAddr>, labels: &[(&str, &str)]) {
        let metric_labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.update(Kind::Add(WeightedAddrSet { addrs: addrs.into_iter().collect(), metric_labels }));
    }

    /// Adds an endpoint, unless the stream has ended.
    pub(super) fn try_add(&self, addr: WeightedAddr) -> bool {
        let added = Kind::Add(WeightedAddrSet { addrs: vec![addr], ..WeightedAddrSet::default() });
        self.answers.send(Ok(Update { update: Some(added) })).is_ok()
    }

    pub(super) fn remove(&self, addrs: &[SocketAddr]) {
        self.update(Kind::Remove(AddrSet { addrs: addrs.iter().copied().map(tcp_address).collect() }));
    }

    pub(super) fn no_endpoints(&self, exists: bool) {
        self.update(Kind::NoEndpoints(NoEndpoints { exists }));
    }

    fn update(&self, update: Kind) {
        self.send(Update { update: Some(update) });
    }
}

/// An endpoint of weight 1.
pub(super) fn weighted(addr: SocketAddr) -> WeightedAddr {
    WeightedAddr { addr: Some(tcp_address(addr)), weight: 1, ..WeightedAddr::default() }
}

fn tcp_address(addr: SocketAddr) -> TcpAddress {
    TcpAddress { ip: Some(addr.ip().into()), port: addr.port().into() }
}

#[tonic::async_trait]
impl Destination for Service {
    type GetStream = BoxStream<'static, Result<Update, Status>>;
    type GetProfileStream = BoxStream<'static, Result<DestinationProfile, Status>>;

    async fn get(&self, req: Request<GetDestination>) -> Result<Response<Self::GetStream>, Status> {
        answer(&self.gets, req)
    }

    async fn get_profile(&self, req: Request<GetDestination>) -> Result<Response<Self::GetProfileStream>, Status> {
        answer(&self.profiles, req)
    }
}

fn answer<M: Send + 'static>(
    asked: &mpsc::UnboundedSender<Asked<M>>,
    req: Request<GetDestination>,
) -> Result<Response<BoxStream<'static, Result<M, Status>>>, Status> {
    let from = req.remote_addr().unwrap();
    let (answers, mut answered) = mpsc::unbounded_channel();
    let _ = asked.send(Asked { question: req.into_inner(), from, answers });
    Ok(Response::new(poll_fn(move |cx| answered.poll_recv(cx)).boxed()))
}
