//! Sockets that systemd passes, and notifications to it.

use crate::{
    docs,
    support::{App, Endpoint, admin, body, command, connect, get},
    tls::pki::Files,
};
use std::{
    fs,
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    process::{Command, Output, Stdio},
};
use tokio::{net::UnixDatagram, time::timeout};

/// The binary with sockets as systemd passes them: descriptors 3 and 4, which were standard input and standard error.
fn activated(variables: &str, third: impl Into<OwnedFd>, fourth: Option<OwnedFd>) -> Command {
    let mut shell = Command::new("/bin/sh");
    let fourth_is = if fourth.is_some() { "4<&2 2>&1" } else { "" };
    let script = format!("exec 3<&0 0</dev/null {fourth_is}; {variables} exec \"$0\"");
    shell.env_clear().args(["-c", &script, env!("CARGO_BIN_EXE_app")]).stdin(third.into());
    if let Some(fourth) = fourth {
        shell.stderr(fourth);
    }
    shell
}

fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// The output of a process that does not start.
fn refused(mut command: Command) -> (Option<i32>, String) {
    command
        .env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1")
        .env("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "127.0.0.1:0");
    command.env("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", "127.0.0.1:0");
    let Output { status, stderr, stdout } = command.stdout(Stdio::piped()).output().unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[tokio::test]
async fn sockets_are_used_by_name_or_by_address() {
    for (names, by_address) in [
        ("LISTEN_FDNAMES=admin:outbound", false),
        ("LISTEN_FDNAMES=app.socket:app.socket", true),
        ("LISTEN_FDNAMES=admin:unknown", true),
        ("", true),
    ] {
        let endpoint = Endpoint::start().await;
        endpoint.answer.send_replace(true);
        let ((third, admin_addr), (fourth, proxy)) = (bound(), bound());
        let [admin_variable, proxy_variable] = [admin_addr, proxy].map(|addr| addr.to_string());
        let settings = [
            ("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", &*proxy_variable),
            ("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", &admin_variable),
        ];
        let command = activated(&format!("LISTEN_PID=$$ LISTEN_FDS=2 {names}"), third, Some(fourth.into()));
        let app = App::start_by(command, endpoint.addr, if by_address { &settings } else { &[] });
        assert_eq!((app.proxy, app.admin), (proxy, admin_addr), "{names}");
        let mut client = connect(proxy).await;
        assert_eq!(body(client.send_request(get(), true).unwrap().0).await.unwrap(), b"answer");
        assert_eq!(admin(admin_addr, "GET", "/live", "").await.0, 200);
        for descriptor in [3, 4] {
            let info = fs::read_to_string(format!("/proc/{}/fdinfo/{descriptor}", app.pid())).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
            let flags = i32::from_str_radix(flags, 8).unwrap();
            let (nonblocking, close_on_exec) = (0o4000, 0o2_000_000);
            assert_eq!(flags & (nonblocking | close_on_exec), nonblocking | close_on_exec, "{info}");
        }
    }
}

#[tokio::test]
async fn clients_that_connect_before_the_start_are_served() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let (socket, addr) = bound();
    let mut early = connect(addr).await;
    let response = early.send_request(get(), true).unwrap().0;
    let command = activated("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=outbound", socket, None);
    let app = App::start_by(command, endpoint.addr, &[]);
    assert_eq!(app.proxy, addr);
    assert_eq!(body(response).await.unwrap(), b"answer");
}

#[test]
fn descriptors_of_no_use_are_named() {
    let datagrams = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let connected = || {
        let (listener, addr) = bound();
        let stream = TcpStream::connect(addr).unwrap();
        drop(listener);
        OwnedFd::from(stream)
    };
    let file = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
    for (socket, kind) in [(datagrams(), "datagrams"), (connected(), "a connection"), (file(), "a file")] {
        let (code, output) = refused(activated("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=outbound", socket, None));
        let expected = "error: descriptor 3 (\"outbound\") is no listening socket of TCP or a path, must be one";
        assert!(code == Some(64) && output.contains(expected), "{kind}: {code:?} {output}");
    }
    for (variables, expected) in [
        ("LISTEN_FDS=1", "error: descriptor 3 listens on 127.0.0.1:"),
        ("LISTEN_FDS=1 LISTEN_FDNAMES=typo", "error: descriptor 3 (\"typo\") listens on 127.0.0.1:"),
        (
            "LISTEN_FDS=1 LISTEN_FDNAMES=inbound",
            "error: descriptor 3 (\"inbound\") is for the inbound listener, which is off",
        ),
        ("LISTEN_FDS=2", "error: descriptor 4 is no listening socket"),
        ("LISTEN_FDS=1 LISTEN_FDNAMES=a:b", "error: LISTEN_FDNAMES has 2 names, must have 1"),
        ("LISTEN_FDS=-1", "error: LISTEN_FDS is \"-1\", must be a number of descriptors"),
        ("LISTEN_FDS=100000", "error: LISTEN_FDS is \"100000\", must be a number of descriptors"),
    ] {
        let (code, output) = refused(activated(&format!("LISTEN_PID=$$ {variables}"), bound().0, None));
        assert!(code == Some(64) && output.contains(expected), "{variables}: {code:?} {output}");
    }
}

#[test]
fn two_sockets_for_one_listener_are_an_error() {
    let variables = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=outbound:outbound";
    let (code, output) = refused(activated(variables, bound().0, Some(bound().0.into())));
    assert_eq!(code, Some(64), "{output}");
    let expected = "error: descriptor 4 (\"outbound\") is for the outbound listener, as is descriptor 3 (\"outbound\")";
    assert!(output.contains(expected), "{output}");
}

#[tokio::test]
async fn sockets_of_another_process_are_left_alone_with_a_warning() {
    for (pid, shown) in
        [("LISTEN_PID=1", "LISTEN_PID is \"1\""), ("LISTEN_PID=", "LISTEN_PID is \"\""), ("", "is unset")]
    {
        let endpoint = Endpoint::start().await;
        let (socket, addr) = bound();
        let (mut warnings, stderr) = std::io::pipe().unwrap();
        let mut command = activated(&format!("{pid} LISTEN_FDS=1 LISTEN_FDNAMES=outbound"), socket, None);
        command.stderr(stderr);
        let app = App::start_by(command, endpoint.addr, &[]);
        assert_ne!(app.proxy, addr);
        drop(app);
        let mut warned = String::new();
        warnings.read_to_string(&mut warned).unwrap();
        assert!(warned.contains("warning: LISTEN_PID") && warned.contains(shown), "{warned}");
    }
}

#[tokio::test]
async fn systemd_is_told_of_the_start_of_reloads_of_a_new_process_and_of_the_end() {
    let files = Files::new();
    let path = files.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let told = async || {
        let mut message = [0; 256];
        let len = timeout(crate::support::PATIENCE, socket.recv(&mut message)).await.expect("a message").unwrap();
        String::from_utf8(message[..len].to_vec()).unwrap()
    };
    let endpoint = Endpoint::start().await;
    let mut app = App::start_by(command(), endpoint.addr, &[("NOTIFY_SOCKET", &path)]);
    assert_eq!(told().await, "READY=1");
    app.signal("-HUP");
    let reloading = told().await;
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(time.parse::<u64>().unwrap() > 0);
    assert_eq!(told().await, "READY=1");
    app.signal("-USR2");
    let main = told().await;
    let pid = main.strip_prefix("MAINPID=").unwrap().to_owned();
    assert_ne!(pid, app.pid().to_string());
    assert_eq!(told().await, "READY=1");
    assert!(app.ended().await.success());
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(told().await, "STOPPING=1");
}

#[test]
fn the_manual_names_the_listeners() {
    let chapter = docs::chapter("upgrades.md");
    for name in ["outbound", "inbound", "admin"] {
        assert!(chapter.contains(&format!("FileDescriptorName={name}")), "{name}");
    }
}
