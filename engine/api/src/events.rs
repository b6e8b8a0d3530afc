//! Events.

use crate::Map;

message! {
    /// One line of `GET /events`.
    pub struct EventMessage {
        /// The action, for container, image and network events before 1.22 clients knew `Action`.
        status: String = "status" omitempty,
        id: String = "id" omitempty,
        from: String = "from" omitempty,
        /// `container`, `image`, `volume`, `network`, `daemon`, `builder`.
        r#type: String = "Type",
        action: String = "Action",
        actor: EventActor = "Actor",
        /// `local` or `swarm`.
        scope: String = "scope" omitempty,
        /// Seconds since 1970.
        time: i64 = "time" omitempty,
        time_nano: i64 = "timeNano" omitempty,
    }
}

message! {
    /// Whom an event is about.
    pub struct EventActor {
        id: String = "ID",
        attributes: Map<String> = "Attributes",
    }
}
