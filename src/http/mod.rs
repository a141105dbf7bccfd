//! How clients talk: routes, dialects, errors. The only room that names axum.
