//! CRIU's messages: the fields of `rpc.proto` (checkpoint-restore/criu, images/rpc.proto) that we set and read, in
//! protobuf's wire format.

/// `criu_req_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Write an image.
    Dump = 1,
    /// Make processes from one.
    Restore = 2,
    /// Write memory only, and let it run on.
    PreDump = 4,
    /// Something happened; it waits for an answer.
    Notify = 6,
    /// What the kernel offers.
    FeatureCheck = 9,
    /// Its version.
    Version = 10,
}

impl Type {
    /// The name in error messages, as the protocol has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dump => "DUMP",
            Self::Restore => "RESTORE",
            Self::PreDump => "PRE_DUMP",
            Self::Notify => "NOTIFY",
            Self::FeatureCheck => "FEATURE_CHECK",
            Self::Version => "VERSION",
        }
    }

    fn of(number: u64) -> Option<Self> {
        [
            Self::Dump,
            Self::Restore,
            Self::PreDump,
            Self::Notify,
            Self::FeatureCheck,
            Self::Version,
        ]
        .into_iter()
        .find(|t| *t as u64 == number)
    }
}

/// `criu_cg_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // criu(8), --manage-cgroups
pub enum CgroupMode {
    Ignore = 0,
    Soft = 3,
    Full = 4,
    Strict = 5,
    Default = 6,
}

/// `criu_network_lock_method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // criu(8), --network-lock
pub enum NetworkLock {
    Iptables = 1,
    Nftables = 2,
    Skip = 3,
}

/// A message that is being written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        self.bytes.push(u8::try_from(value).unwrap_or(0));
    }

    /// A number; a negative one takes ten bytes, as protobuf's int32 has it.
    pub fn int(&mut self, field: u32, value: i64) {
        self.varint(u64::from(field) << 3);
        self.varint(value.cast_unsigned());
    }

    /// A truth value.
    pub fn bool(&mut self, field: u32, value: bool) {
        self.int(field, i64::from(value));
    }

    /// A string or a message in a message.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    fn text(&mut self, field: u32, value: Option<&str>) {
        if let Some(value) = value {
            self.bytes(field, value.as_bytes());
        }
    }

    fn pair(&mut self, field: u32, key: &str, value: &str) {
        let mut inner = Self::default();
        inner.bytes(1, key.as_bytes());
        inner.bytes(2, value.as_bytes());
        self.bytes(field, &inner.bytes);
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// `criu_opts`. What is false or empty is not sent: it is the default.
#[derive(Debug, Default, Clone)]
#[allow(missing_docs)] // each is the field of that name; criu(8) explains them
pub struct Opts {
    pub images_dir_fd: i32,
    pub work_dir_fd: Option<i32>,
    pub pid: Option<i32>,
    pub log_file: String,
    pub root: Option<String>,
    pub parent_img: Option<String>,
    pub track_mem: bool,
    pub leave_running: bool,
    pub ext_unix_sk: bool,
    pub tcp_established: bool,
    pub tcp_skip_in_flight: bool,
    pub tcp_close: bool,
    pub evasive_devices: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub auto_dedup: bool,
    pub link_remap: bool,
    pub lazy_pages: bool,
    pub rst_sibling: bool,
    pub page_server: Option<(String, u16)>,
    pub cgroup_mode: Option<CgroupMode>,
    pub cg_root: Vec<(String, String)>,
    pub freeze_cgroup: Option<String>,
    pub ext_mnt: Vec<(String, String)>,
    pub inherit_fd: Vec<(String, i32)>,
    pub external: Vec<String>,
    pub join_ns: Vec<(String, String)>,
    pub empty_ns: u32,
    pub status_fd: Option<i32>,
    pub config_file: Option<String>,
    pub lsm_profile: Option<String>,
    pub lsm_mount_context: Option<String>,
    pub network_lock: Option<NetworkLock>,
}

/// Everything: criu's log is the only place where it says why something cannot be dumped.
const LOG_LEVEL: i64 = 4;

impl Opts {
    fn encode(&self) -> Encoder {
        let mut m = Encoder::default();
        m.int(1, self.images_dir_fd.into());
        self.pid.iter().for_each(|pid| m.int(2, (*pid).into()));
        for (field, on) in [
            (3, self.leave_running),
            (4, self.ext_unix_sk),
            (5, self.tcp_established),
            (6, self.evasive_devices),
            (7, self.shell_job),
            (8, self.file_locks),
            (15, self.track_mem),
            (16, self.auto_dedup),
            (18, self.link_remap),
            (26, self.rst_sibling),
            (46, self.tcp_skip_in_flight),
            (48, self.lazy_pages),
            (52, self.tcp_close),
            // Every request that we make: our hooks are notifications, and our terminals have no master inside.
            (12, true),
            (50, true),
        ] {
            if on {
                m.bool(field, true);
            }
        }
        m.int(9, LOG_LEVEL);
        m.bytes(10, self.log_file.as_bytes());
        if let Some((address, port)) = &self.page_server {
            let mut inner = Encoder::default();
            inner.bytes(1, address.as_bytes());
            inner.int(2, (*port).into());
            m.bytes(11, &inner.bytes);
        }
        m.text(13, self.root.as_deref());
        m.text(14, self.parent_img.as_deref());
        self.work_dir_fd.iter().for_each(|fd| m.int(17, (*fd).into()));
        self.encode_lists(&mut m);
        m.text(44, self.freeze_cgroup.as_deref());
        self.status_fd.iter().for_each(|fd| m.int(49, (*fd).into()));
        m.text(51, self.config_file.as_deref());
        m.text(53, self.lsm_profile.as_deref());
        m.text(63, self.lsm_mount_context.as_deref());
        self.network_lock.iter().for_each(|l| m.int(64, *l as i64));
        m
    }

    fn encode_lists(&self, m: &mut Encoder) {
        for (key, value) in &self.ext_mnt {
            m.pair(23, key, value);
        }
        if let Some(mode) = self.cgroup_mode {
            // 24 is what versions before the modes understood.
            m.bool(24, true);
            m.int(34, mode as i64);
        }
        for (controllers, path) in &self.cg_root {
            m.pair(25, controllers, path);
        }
        for (key, fd) in &self.inherit_fd {
            let mut inner = Encoder::default();
            inner.bytes(1, key.as_bytes());
            inner.int(2, (*fd).into());
            m.bytes(27, &inner.bytes);
        }
        for external in &self.external {
            m.bytes(37, external.as_bytes());
        }
        if self.empty_ns != 0 {
            m.int(38, self.empty_ns.into());
        }
        for (namespace, path) in &self.join_ns {
            m.pair(39, namespace, path);
        }
    }
}

/// What a kernel may lack.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Tracking of changed memory, for pre-dump.
    pub mem_track: bool,
    /// userfaultfd, for lazy pages.
    pub lazy_pages: bool,
}

/// `criu_req`.
pub fn request(typ: Type, opts: Option<&Opts>) -> Vec<u8> {
    let mut m = Encoder::default();
    m.int(1, typ as i64);
    if let Some(opts) = opts {
        m.bytes(2, &opts.encode().bytes);
    }
    m.into_bytes()
}

/// The request for [`Features`].
pub fn feature_request(features: Features) -> Vec<u8> {
    let mut inner = Encoder::default();
    for (field, asked) in [(1, features.mem_track), (2, features.lazy_pages)] {
        if asked {
            inner.bool(field, true);
        }
    }
    let mut m = Encoder::default();
    m.int(1, Type::FeatureCheck as i64);
    m.bytes(5, &inner.bytes);
    m.into_bytes()
}

/// The answer to a notification.
pub fn acknowledgement() -> Vec<u8> {
    let mut m = Encoder::default();
    m.int(1, Type::Notify as i64);
    m.bool(3, true);
    m.into_bytes()
}

/// `criu_resp`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Response {
    /// What it answers; `None` for a type that we never ask for.
    pub typ: Option<Type>,
    /// Whether it worked.
    pub success: bool,
    /// errno, where one is known.
    pub errno: i32,
    /// A sentence, where one is known.
    pub message: String,
    /// `criu_notify`: what happened, and the process it happened to.
    pub script: String,
    /// See `script`.
    pub pid: i32,
    /// `VERSION`: as 31701 for 3.17.1.
    pub version: u64,
    /// `FEATURE_CHECK`.
    pub features: Features,
}

/// One field of a message.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Takes one varint off the front.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = varint(bytes)?;
    let mut take = |n: usize| {
        let (value, rest) = bytes.split_at_checked(n)?;
        *bytes = rest;
        Some(value)
    };
    let value = match tag & 7 {
        0 => Value::Number(varint(bytes)?),
        1 => Value::Bytes(take(8)?),
        2 => {
            let n = usize::try_from(varint(bytes)?).ok()?;
            let (value, rest) = bytes.split_at_checked(n)?;
            *bytes = rest;
            Value::Bytes(value)
        }
        5 => Value::Bytes(take(4)?),
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn fields(mut bytes: &[u8], mut each: impl FnMut(u64, Value<'_>)) -> Option<()> {
    while !bytes.is_empty() {
        let (number, value) = field(&mut bytes)?;
        each(number, value);
    }
    Some(())
}

/// protobuf's int32.
fn int32(value: u64) -> i32 {
    i32::try_from(value.cast_signed()).unwrap_or(0)
}

impl Response {
    /// Reads one; `None` for bytes that are none. Fields that are not known are skipped.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut out = Self::default();
        let mut whole = true;
        fields(bytes, |number, value| match (number, value) {
            (1, Value::Number(n)) => out.typ = Type::of(n),
            (2, Value::Number(n)) => out.success = n != 0,
            (4, Value::Bytes(b)) => whole &= out.restored(b).is_some(),
            (5, Value::Bytes(b)) => whole &= out.notified(b).is_some(),
            (7, Value::Number(n)) => out.errno = int32(n),
            (8, Value::Bytes(b)) => whole &= out.checked(b).is_some(),
            (9, Value::Bytes(b)) => out.message = String::from_utf8_lossy(b).into_owned(),
            (10, Value::Bytes(b)) => whole &= out.versioned(b).is_some(),
            _ => {}
        })?;
        whole.then_some(out)
    }

    fn restored(&mut self, bytes: &[u8]) -> Option<()> {
        fields(bytes, |number, value| {
            if let (1, Value::Number(n)) = (number, value) {
                self.pid = int32(n);
            }
        })
    }

    fn notified(&mut self, bytes: &[u8]) -> Option<()> {
        fields(bytes, |number, value| match (number, value) {
            (1, Value::Bytes(b)) => self.script = String::from_utf8_lossy(b).into_owned(),
            (2, Value::Number(n)) => self.pid = int32(n),
            _ => {}
        })
    }

    fn checked(&mut self, bytes: &[u8]) -> Option<()> {
        fields(bytes, |number, value| match (number, value) {
            (1, Value::Number(n)) => self.features.mem_track = n != 0,
            (2, Value::Number(n)) => self.features.lazy_pages = n != 0,
            _ => {}
        })
    }

    fn versioned(&mut self, bytes: &[u8]) -> Option<()> {
        let (mut major, mut minor, mut sublevel, mut unreleased) = (0, 0, 0, false);
        fields(bytes, |number, value| match (number, value) {
            (1, Value::Number(n)) => major = n,
            (2, Value::Number(n)) => minor = n,
            (3, Value::Bytes(_)) => unreleased = true,
            (4, Value::Number(n)) => sublevel = n,
            _ => {}
        })?;
        // A build between two releases counts as the next one, as go-criu has it.
        let base = |minor: u64, sublevel: u64| {
            let parts = (major.checked_mul(10_000)?, minor.checked_mul(100)?);
            parts.0.checked_add(parts.1)?.checked_add(sublevel)
        };
        self.version = if unreleased {
            base(minor.checked_add(1)?, 0)?
        } else {
            base(minor, sublevel)?
        };
        Some(())
    }
}

#[cfg(test)]
#[path = "rpc_tests.rs"]
mod tests;
