//! The HTTP API: routes, middleware and dialects. The only module that names axum.
//!
//! [`router()`] puts the routes and the middleware together. `rank` is the handler of every route
//! that ranks; a dialect turns its JSON into a [`RerankRequest`](crate::rerank::RerankRequest) and
//! the ranking back, in one file of [`dialects`] each.

mod access_log;
mod admin;
pub mod auth;
mod body;
mod body_memory;
mod connections;
mod cors;
mod decompress;
pub mod dialects;
mod error;
mod error_body;
pub mod fields;
mod memory_pool;
mod off_thread;
mod openapi;
mod path_prefix;
mod rank;
mod route_table;
mod router;
mod routes;
mod schemas;
mod service;
mod settings;

pub use auth::{AuthSettings, Authenticator};
pub use connections::serve_connections;
pub use cors::cors_layer;
pub use error::{ApiError, ErrorCode, ErrorSpec};
pub use error_body::ErrorShape;
pub use path_prefix::is_prefix as is_path_prefix;
pub use router::router;
pub use service::Service;
pub use settings::ServerSettings;
