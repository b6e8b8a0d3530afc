//! The table of all routes: method, path, first API version, handler. Order matters where patterns overlap.

mod check;
mod commit;
mod containers;
mod exec;
mod files;
mod images;
mod networks;
mod pull;
mod registry;
mod relay;
mod save;
mod stubs;
mod system;
mod times;
mod volumes;
mod websocket;

use super::body::Reply;
use super::call::Call;
use super::errors::ApiError;
use super::router::{self, Vars};
use super::versions::{ApiVersion, OLDEST};
use http::Method;
use std::pin::Pin;

/// What a handler returns.
pub type Answer = Pin<Box<dyn Future<Output = Result<Reply, ApiError>> + Send>>;

/// One line of the table.
#[derive(Debug)]
pub struct Route {
    /// HTTP method.
    pub method: Method,
    /// Path without version prefix, see [`router::matches`].
    pub pattern: &'static str,
    /// First API version that has it.
    pub since: ApiVersion,
    /// What answers.
    pub handler: fn(Call) -> Answer,
}

macro_rules! table {
    ($($method:ident $pattern:literal $(since $since:literal)? => $handler:path;)*) => {
        &[$(Route {
            method: Method::$method,
            pattern: $pattern,
            since: table!(@since $($since)?),
            handler: |call| Box::pin($handler(call)),
        }),*]
    };
    (@since) => { OLDEST };
    (@since $since:literal) => { ApiVersion($since) };
}

static ROUTES: &[Route] = table! {
    GET "/_ping" => system::ping;
    HEAD "/_ping" => system::ping;
    GET "/version" => system::version;
    GET "/info" => system::info;
    GET "/events" => system::events;
    GET "/system/df" => system::disk_usage;
    POST "/auth" => registry::auth;

    GET "/containers/json" => containers::list;
    POST "/containers/create" => containers::create;
    POST "/containers/prune" since 25 => containers::prune;
    GET "/containers/{id}/json" => containers::inspect;
    GET "/containers/{id}/top" => containers::top;
    GET "/containers/{id}/logs" => containers::logs;
    POST "/containers/{id}/start" => containers::start;
    POST "/containers/{id}/stop" => containers::stop;
    POST "/containers/{id}/restart" => containers::restart;
    POST "/containers/{id}/kill" => containers::kill;
    POST "/containers/{id}/pause" => containers::pause;
    POST "/containers/{id}/unpause" => containers::unpause;
    POST "/containers/{id}/rename" => containers::rename;
    POST "/containers/{id}/wait" => containers::wait;
    POST "/containers/{id}/resize" => containers::resize;
    POST "/containers/{id}/attach" => containers::attach;
    POST "/containers/{id}/exec" => exec::create;
    GET "/containers/{id}/attach/ws" => websocket::attach;
    GET "/containers/{id}/changes" => files::changes;
    GET "/containers/{id}/export" => files::export;
    GET "/containers/{id}/stats" => containers::stats;
    POST "/containers/{id}/update" => containers::update;
    HEAD "/containers/{id}/archive" => files::look;
    GET "/containers/{id}/archive" => files::archive;
    PUT "/containers/{id}/archive" => files::extract;
    GET "/containers/{id}/checkpoints" => stubs::not_yet;
    POST "/containers/{id}/checkpoints" => stubs::not_yet;
    DELETE "/containers/{id}/checkpoints/{checkpoint}" => stubs::not_yet;
    DELETE "/containers/{name...}" => containers::remove;
    POST "/commit" => commit::create;

    POST "/exec/{id}/start" => exec::start;
    POST "/exec/{id}/resize" => exec::resize;
    GET "/exec/{id}/json" => exec::inspect;

    GET "/images/json" => images::list;
    GET "/images/search" => registry::search;
    GET "/images/get" => save::many;
    GET "/images/{name...}/get" => save::one;
    GET "/images/{name...}/history" => images::history;
    GET "/images/{name...}/json" => images::inspect;
    POST "/images/create" => pull::create;
    POST "/images/load" => pull::load;
    POST "/images/prune" since 25 => images::prune;
    POST "/images/{name...}/push" => pull::push;
    POST "/images/{name...}/tag" => images::tag;
    DELETE "/images/{name...}" => images::remove;
    GET "/distribution/{name...}/json" => registry::distribution;
    GET "/kelson/check" => check::look;
    POST "/kelson/check" => check::repair;
    GET "/kelson/manifests/{name...}" => registry::manifest;

    POST "/build" => stubs::not_yet;
    POST "/build/prune" => stubs::not_yet;
    POST "/build/cancel" => stubs::not_yet;
    POST "/session" => stubs::not_yet;
    POST "/grpc" => stubs::not_yet;

    GET "/volumes" => volumes::list;
    GET "/volumes/{name}" => volumes::inspect;
    POST "/volumes/create" => volumes::create;
    POST "/volumes/prune" since 25 => volumes::prune;
    PUT "/volumes/{name}" => stubs::not_a_manager;
    DELETE "/volumes/{name}" => volumes::remove;

    GET "/networks" => networks::list;
    GET "/networks/" => networks::list;
    GET "/networks/{id}" => networks::inspect;
    POST "/networks/create" => networks::create;
    POST "/networks/prune" since 25 => networks::prune;
    POST "/networks/{id}/connect" => networks::connect;
    POST "/networks/{id}/disconnect" => networks::disconnect;
    DELETE "/networks/{id}" => networks::remove;

    GET "/plugins" => stubs::no_plugins;
    GET "/plugins/{path...}" => stubs::no_such_plugin;
    POST "/plugins/{path...}" => stubs::not_yet;
    DELETE "/plugins/{path...}" => stubs::not_yet;

    POST "/swarm/init" => stubs::not_yet;
    POST "/swarm/join" => stubs::not_yet;
    POST "/swarm/leave" => stubs::not_in_swarm;
    GET "/swarm" => stubs::not_a_manager;
    GET "/swarm/{path...}" => stubs::not_a_manager;
    POST "/swarm/{path...}" => stubs::not_a_manager;
    GET "/nodes" => stubs::not_a_manager;
    GET "/nodes/{path...}" => stubs::not_a_manager;
    POST "/nodes/{path...}" => stubs::not_a_manager;
    DELETE "/nodes/{path...}" => stubs::not_a_manager;
    GET "/services" => stubs::not_a_manager;
    GET "/services/{path...}" => stubs::not_a_manager;
    POST "/services/{path...}" => stubs::not_a_manager;
    DELETE "/services/{path...}" => stubs::not_a_manager;
    GET "/tasks" => stubs::not_a_manager;
    GET "/tasks/{path...}" => stubs::not_a_manager;
    GET "/secrets" => stubs::not_a_manager;
    GET "/secrets/{path...}" => stubs::not_a_manager;
    POST "/secrets/{path...}" => stubs::not_a_manager;
    DELETE "/secrets/{path...}" => stubs::not_a_manager;
    GET "/configs" => stubs::not_a_manager;
    GET "/configs/{path...}" => stubs::not_a_manager;
    POST "/configs/{path...}" => stubs::not_a_manager;
    DELETE "/configs/{path...}" => stubs::not_a_manager;
};

/// The first line that matches.
pub fn find(method: &Method, path: &str) -> Option<(&'static Route, Vars)> {
    ROUTES
        .iter()
        .filter(|route| route.method == *method)
        .find_map(|route| router::matches(route.pattern, path).map(|vars| (route, vars)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(method: Method, path: &str) -> Option<&'static str> {
        find(&method, path).map(|(route, _)| route.pattern)
    }

    #[test]
    fn overlaps_resolve_by_order() {
        assert_eq!(pattern(Method::GET, "/images/json"), Some("/images/json"));
        assert_eq!(
            pattern(Method::GET, "/images/a/b/json"),
            Some("/images/{name...}/json")
        );
        assert_eq!(pattern(Method::GET, "/images/get"), Some("/images/get"));
        assert_eq!(pattern(Method::POST, "/images/create"), Some("/images/create"));
        assert_eq!(
            pattern(Method::POST, "/images/x/create/tag"),
            Some("/images/{name...}/tag")
        );
        assert_eq!(
            pattern(Method::POST, "/containers/prune"),
            Some("/containers/prune")
        );
        assert_eq!(pattern(Method::POST, "/volumes/prune"), Some("/volumes/prune"));
    }

    #[test]
    fn a_wrong_method_or_path_matches_nothing() {
        assert_eq!(pattern(Method::PUT, "/info"), None);
        assert_eq!(pattern(Method::GET, "/containers/x"), None);
        assert_eq!(pattern(Method::GET, "/"), None);
        assert_eq!(pattern(Method::DELETE, "/containers/"), None);
    }

    #[test]
    fn every_line_can_be_reached() {
        for (at, route) in ROUTES.iter().enumerate() {
            let path = route
                .pattern
                .replace("{name...}", "a/b:c")
                .replace("{path...}", "zz")
                .replace(['{', '}'], "");
            let (found, _) = find(&route.method, &path).unwrap();
            assert!(
                std::ptr::eq(found, route),
                "line {at} {} is shadowed by {}",
                route.pattern,
                found.pattern
            );
        }
    }
}
