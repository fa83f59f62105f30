//! `app demo`: a back end, the proxy before it, and traffic through both, on loopback.
pub(crate) async fn run(
    _once: bool,
    _time: std::time::Duration,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Ok(())
}
