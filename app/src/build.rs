//! Which build this is, as the build script tells.

/// The version, with commit and profile where the commit is known: `0.1.0 (0123456789ab, release)`.
pub(crate) const DESCRIPTION: &str = env!("APP_VERSION");

/// The version of the crate.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The first 12 digits of the commit that was checked out; `None` of a build outside of a checkout.
pub(crate) const COMMIT: Option<&str> = option_env!("APP_COMMIT");

/// Cargo's profile: `debug`, `release`, or another one's name; `-pgo` follows where the build was guided by counts.
pub(crate) const PROFILE: &str = env!("APP_PROFILE");
