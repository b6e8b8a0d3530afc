//! `GET /images/get` and `/images/{name}/get`: images as one archive.

use crate::server::body::{Reply, Sender, stream, streaming};
use crate::server::call::Call;
use crate::server::errors::ApiError;
use bytes::BytesMut;
use std::io;
use tokio::io::{AsyncReadExt, DuplexStream};

/// Bytes between the image store and the client.
pub(super) const PIPE: usize = 64 << 10;

/// `GET /images/{name}/get`.
pub async fn one(call: Call) -> Result<Reply, ApiError> {
    let names = vec![call.var("name").to_owned()];
    save(call, names).await
}

/// `GET /images/get?names=a&names=b`.
pub async fn many(call: Call) -> Result<Reply, ApiError> {
    let names: Vec<String> = call.query.values("names").map(str::to_owned).collect();
    if names.is_empty() {
        return Err(ApiError::invalid(
            "no images to save: the parameter names is missing",
        ));
    }
    save(call, names).await
}

async fn save(call: Call, names: Vec<String>) -> Result<Reply, ApiError> {
    let engine = call.app.engine().await?;
    // Unknown names still have a status of their own; what goes wrong later can only break the body off.
    for name in &names {
        let image = engine.images().resolve(name)?;
        engine.image_event("save", &image.id().to_string(), &[("name", name)]);
    }
    let (writer, reader) = tokio::io::duplex(PIPE);
    let (sender, body) = stream();
    tokio::spawn(async move {
        let (saved, sent) = tokio::join!(engine.images().save(&names, writer), pump(reader, &sender));
        match (saved, sent) {
            (Ok(()), Ok(())) => {}
            (Err(error), _) => {
                tracing::error!("save {names:?}: {error}");
                sender.abort(io::Error::other(error)).await;
            }
            (Ok(()), Err(error)) => sender.abort(error).await,
        }
    });
    Ok(streaming("application/x-tar", body))
}

/// Dropping the reader, when the client has left, ends the writer with a broken pipe.
pub(super) async fn pump(mut from: DuplexStream, to: &Sender) -> io::Result<()> {
    loop {
        let mut piece = BytesMut::with_capacity(PIPE);
        if from.read_buf(&mut piece).await? == 0 {
            return Ok(());
        }
        if to.send(piece.freeze()).await.is_err() {
            return Ok(());
        }
    }
}
