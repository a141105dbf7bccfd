//! Routes as logs, metrics and traces name them.

/// A route of the server, or `other` for every path that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The path, with placeholders.
    pub path: &'static str,
    /// What requests to it are for.
    pub kind: RouteKind,
}

/// What the requests to a route are for: the label that alerts and dashboards select by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Ranks documents, in whichever dialect.
    Rank,
    /// Scores pairs.
    Score,
    /// Loads and unloads models.
    Admin,
    /// Everything else, and paths that are no route.
    Other,
}

/// Routes that are requested all day long: logged only if something is wrong, and never traced.
const QUIET_PATHS: [&str; 3] = ["/health", "/ready", "/metrics"];

impl Route {
    /// A route that ranks.
    #[must_use]
    pub const fn rank(path: &'static str) -> Self {
        Self { path, kind: RouteKind::Rank }
    }

    /// A route that neither ranks nor administers.
    #[must_use]
    pub const fn other(path: &'static str) -> Self {
        Self { path, kind: RouteKind::Other }
    }

    /// Whether requests to it are logged at debug level only, and never traced.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        QUIET_PATHS.contains(&self.path)
    }
}

impl RouteKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Rank, Self::Score, Self::Admin, Self::Other];

    /// The value of the label `kind`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rank => "rank",
            Self::Score => "score",
            Self::Admin => "admin",
            Self::Other => "other",
        }
    }
}
