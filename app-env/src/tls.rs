//! TLS toward clients and toward endpoints.

use crate::{
    ClientCert, ConnectTls, Error, Origin, ServerTls, TlsIdentity,
    grammar::{FilePath, Grammar},
    reader::Reader,
    table::{
        CONNECT_TLS, CONNECT_TLS_CA, CONNECT_TLS_CERT, CONNECT_TLS_INSECURE_SKIP_VERIFY, CONNECT_TLS_KEY,
        CONNECT_TLS_SERVER_NAME, SERVER_TLS_ALLOWED_CLIENTS, SERVER_TLS_CERT, SERVER_TLS_CLIENT_AUTH,
        SERVER_TLS_CLIENT_CA, SERVER_TLS_FORWARD_CLIENT_CERT, SERVER_TLS_HANDSHAKE_TIMEOUT, SERVER_TLS_KEY,
    },
    variable::{Scope, Var},
};

/// Settings, in words, that do nothing without another variable.
#[derive(Default)]
struct Needed(Vec<String>);

/// Reads TLS toward clients. `None`: there is none, or something is wrong.
pub(crate) fn read_server(env: &mut Reader, scope: Scope) -> Option<ServerTls> {
    let (cert, key) = (&SERVER_TLS_CERT, &SERVER_TLS_KEY);
    let mut by = Needed::default();
    by.set(env, scope, &SERVER_TLS_HANDSHAKE_TIMEOUT);
    by.set(env, scope, &SERVER_TLS_CLIENT_CA);
    let identity = read_identity(env, scope, cert, key, &by);
    let timeout = read_with(env, scope, &SERVER_TLS_HANDSHAKE_TIMEOUT, identity.is_some());
    let client = read_client_cert(env, scope);
    Some(ServerTls { identity: identity?, handshake_timeout: timeout?, client })
}

/// Reads how clients' certificates are checked. `None`: they are not asked for, or there was an error.
fn read_client_cert(env: &mut Reader, scope: Scope) -> Option<ClientCert> {
    let ca = env.read(&SERVER_TLS_CLIENT_CA, scope);
    let auth = read_with(env, scope, &SERVER_TLS_CLIENT_AUTH, ca.is_some());
    let allowed = env.read(&SERVER_TLS_ALLOWED_CLIENTS, scope);
    let forward = env.read_or_default(&SERVER_TLS_FORWARD_CLIENT_CERT, scope);
    let mut by = Needed::default();
    by.set(env, scope, &SERVER_TLS_CLIENT_AUTH);
    by.set(env, scope, &SERVER_TLS_ALLOWED_CLIENTS);
    by.is(scope, &SERVER_TLS_FORWARD_CLIENT_CERT, forward);
    by.check(env, scope, &SERVER_TLS_CLIENT_CA);
    Some(ClientCert { ca: ca?, auth: auth?, allowed, forward })
}

/// Reads TLS toward endpoints. `None`: there is none, or something is wrong.
pub(crate) fn read_connect(env: &mut Reader, scope: Scope) -> Option<ConnectTls> {
    let on = env.read_or_default(&CONNECT_TLS, scope);
    let mut tls = ConnectTls {
        ca: env.read(&CONNECT_TLS_CA, scope),
        server_name: env.read(&CONNECT_TLS_SERVER_NAME, scope),
        identity: read_identity(env, scope, &CONNECT_TLS_CERT, &CONNECT_TLS_KEY, &Needed::default()),
        insecure_skip_verify: env.read_or_default(&CONNECT_TLS_INSECURE_SKIP_VERIFY, scope),
    };
    if !on {
        let mut by = Needed::default();
        by.set(env, scope, &CONNECT_TLS_CA);
        by.set(env, scope, &CONNECT_TLS_SERVER_NAME);
        by.set(env, scope, &CONNECT_TLS_CERT);
        by.set(env, scope, &CONNECT_TLS_KEY);
        by.is(scope, &CONNECT_TLS_INSECURE_SKIP_VERIFY, tls.insecure_skip_verify);
        by.check_on(env, scope);
        return None;
    }
    if tls.insecure_skip_verify {
        tls.ca = None;
        let name = CONNECT_TLS_INSECURE_SKIP_VERIFY.name(scope);
        env.overrule(&CONNECT_TLS_CA, scope, &name, "is true");
        env.warn(name, "is true, anybody on the way can pass for an endpoint");
    }
    Some(tls)
}

/// Reads a certificate and its key, neither of which makes sense alone.
fn read_identity(
    env: &mut Reader,
    scope: Scope,
    cert: &Var<FilePath>,
    key: &Var<FilePath>,
    needed_by: &Needed,
) -> Option<TlsIdentity> {
    let identity = (env.read(cert, scope), env.read(key, scope));
    let mut cert_by = Needed(needed_by.0.clone());
    cert_by.set(env, scope, key);
    cert_by.check(env, scope, cert);
    let mut key_by = Needed::default();
    key_by.set(env, scope, cert);
    key_by.check(env, scope, key);
    Some(TlsIdentity { cert: identity.0?, key: identity.1? })
}

/// The value of a variable that has a default once `on`.
fn read_with<G: Grammar>(env: &mut Reader, scope: Scope, var: &Var<G>, on: bool) -> Option<G::Value> {
    let value = env.read(var, scope);
    if on && value.is_none() && !env.is_wrong(var, scope) {
        return Some(env.fall_back(var, scope, var.default(scope), Origin::Default));
    }
    value
}

// === impl Needed ===

impl Needed {
    fn set<G: Grammar>(&mut self, env: &Reader, scope: Scope, var: &Var<G>) {
        if env.is_set(var, scope) {
            self.0.push(format!("{} is set", var.name(scope)));
        }
    }

    fn is<G: Grammar>(&mut self, scope: Scope, var: &Var<G>, is: bool) {
        if is {
            self.0.push(format!("{} is true", var.name(scope)));
        }
    }

    /// An error of an unset variable, if a setting needs it.
    fn check(&self, env: &mut Reader, scope: Scope, var: &Var<FilePath>) {
        if !self.0.is_empty() && !env.is_set(var, scope) {
            env.error(Error::new(var.name(scope), "is not set", format!("{}, since {}", var.grammar, self)));
        }
    }

    /// An error of TLS toward endpoints that is off, if anything needs it.
    fn check_on(&self, env: &mut Reader, scope: Scope) {
        if !self.0.is_empty() && !env.is_wrong(&CONNECT_TLS, scope) {
            env.error(Error::new(CONNECT_TLS.name(scope), "is off", format!("on, since {self}")));
        }
    }
}

impl std::fmt::Display for Needed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(" and "))
    }
}
