//! A file of routes to throw away, with two services behind one port.

use super::certificate::private_dir;
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// The file, which vanishes with the value.
#[derive(Debug)]
pub(super) struct RouteFile {
    dir: PathBuf,
    path: PathBuf,
}

/// The back ends that the file names.
pub(super) const BACKENDS: [&str; 2] = ["shop", "orders"];

impl RouteFile {
    /// Calls of the service that the demo calls go to `orders`, and all other requests, of any host, to `shop` in HTTP/1.1.
    pub(super) fn new([shop, orders]: [SocketAddr; 2]) -> io::Result<Self> {
        let dir = private_dir("routes")?;
        let file = Self { path: dir.join("routes.yaml"), dir };
        let text = format!(
            "backends:
  shop: {{endpoints: ['{shop}'], protocol: http1}}
  orders: {{endpoints: ['{orders}']}}
routes:
  - name: demo
    rules:
      - name: calls
        matches: [{{method: {{service: demo.Echo}}}}]
        backendRefs: [{{name: orders}}]
      - name: pages
        backendRefs: [{{name: shop}}]
"
        );
        fs::write(&file.path, text)?;
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RouteFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
