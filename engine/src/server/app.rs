//! What all requests share: the settings, and the engine once it is open.

use super::errors::ApiError;
use crate::config::Settings;
use kelson_core::Engine;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::watch;

/// How long a request waits for the engine to finish its start. Reconciling thousands of containers takes seconds.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Shared state of the server.
#[derive(Debug)]
pub struct App {
    /// What kelsond was told.
    pub settings: Settings,
    /// Debug mode, which a reload changes.
    pub debug: AtomicBool,
    /// Identity of this daemon, kept in the data root.
    engine: watch::Receiver<Option<Engine>>,
}

impl App {
    /// A server whose engine arrives later on `engine`.
    pub fn new(settings: Settings, engine: watch::Receiver<Option<Engine>>) -> Self {
        App {
            debug: AtomicBool::new(settings.debug),
            settings,
            engine,
        }
    }

    /// The engine. Clients may connect from the first moment on (ready = listening), so this waits for the start.
    ///
    /// # Errors
    /// 503 when the start takes too long or was given up.
    pub async fn engine(&self) -> Result<Engine, ApiError> {
        let mut engine = self.engine.clone();
        let ready = tokio::time::timeout(START_DEADLINE, engine.wait_for(Option::is_some)).await;
        match ready {
            Ok(Ok(engine)) => engine
                .clone()
                .ok_or_else(|| ApiError::internal("the engine is gone")),
            Ok(Err(_)) => Err(ApiError::unavailable(
                "the engine could not start; see the daemon's log",
            )),
            Err(_) => Err(ApiError::unavailable("the engine is still starting; try again")),
        }
    }

    /// The engine if it has started already.
    pub fn engine_now(&self) -> Option<Engine> {
        self.engine.borrow().clone()
    }
}
