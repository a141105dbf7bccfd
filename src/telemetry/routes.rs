//! Routes as logs, metrics and traces name them.

/// A route of the server, or `other` for every path that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The path, with placeholders.
    pub path: &'static str,
    /// The purpose of its requests.
    pub kind: RouteKind,
    is_quiet: bool,
}

/// The purpose of a route's requests: the label that alerts and dashboards select by.
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

impl Route {
    /// A route for requests of this kind.
    #[must_use]
    pub const fn new(path: &'static str, kind: RouteKind) -> Self {
        Self { path, kind, is_quiet: false }
    }

    /// A route that ranks.
    #[must_use]
    pub const fn rank(path: &'static str) -> Self {
        Self::new(path, RouteKind::Rank)
    }

    /// A route that neither ranks nor administers.
    #[must_use]
    pub const fn other(path: &'static str) -> Self {
        Self::new(path, RouteKind::Other)
    }

    /// A route that probes and scrapers request all day long: its requests are logged at debug
    /// level unless they fail, and never traced.
    #[must_use]
    pub const fn quiet(path: &'static str) -> Self {
        Self { path, kind: RouteKind::Other, is_quiet: true }
    }

    /// Whether it is [`Route::quiet`].
    #[must_use]
    pub const fn is_quiet(&self) -> bool {
        self.is_quiet
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
