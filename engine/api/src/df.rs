//! Disk usage.

use crate::container::ContainerSummary;
use crate::image::ImageSummary;
use crate::volume::Volume;

message! {
    /// Answer of `GET /system/df`.
    pub struct DiskUsage {
        layers_size: i64 = "LayersSize",
        images: Option<Vec<ImageSummary>> = "Images",
        containers: Option<Vec<ContainerSummary>> = "Containers",
        volumes: Option<Vec<Volume>> = "Volumes",
        build_cache: Option<Vec<serde_json::Value>> = "BuildCache",
        builder_size: Option<i64> = "BuilderSize" omitempty,
    }
}
