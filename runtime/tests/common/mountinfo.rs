//! Lines of /proc/self/mountinfo.

/// One line of mountinfo.
#[derive(Debug, Default)]
pub struct Info {
    /// `major:minor` of the filesystem.
    pub device: String,
    /// The directory of the filesystem that is mounted.
    pub root: String,
    pub options: String,
    pub peers: String,
    pub typ: String,
    pub superblock: String,
}

impl Info {
    /// Whether the mount itself has an option.
    pub fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|o| o == option)
    }
}

/// The last mount at a place, from a listing of mountinfo.
pub fn at(listing: &str, place: &str) -> Info {
    let line = listing
        .lines()
        .rfind(|l| l.split(' ').nth(4) == Some(place))
        .unwrap_or_else(|| panic!("no {place} in {listing}"));
    let fields: Vec<_> = line.split(' ').collect();
    let dash = fields.iter().position(|f| *f == "-").unwrap();
    Info {
        device: fields[2].to_owned(),
        root: fields[3].to_owned(),
        options: fields[5].to_owned(),
        peers: fields[6..dash].join(" "),
        typ: fields[dash + 1].to_owned(),
        superblock: fields[dash + 3].to_owned(),
    }
}
