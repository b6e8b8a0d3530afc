//! A shorter program that decides the same: what loading a filter costs is in proportion to its length, as the kernel
//! checks, translates and compiles every instruction for each process that loads it.
//!
//! The library makes a comparison for each system call that a profile names. Here the program is asked instead what becomes
//! of all 2^32 numbers on each architecture, and neighbours with the same fate become one range. That is exact, and takes
//! no more than a few thousand questions: the program only compares, so its answer cannot change between the constants
//! that it compares with. Where the fate depends on arguments, the instructions that look at them are kept as they are;
//! equal ones are kept once.
//!
//! A program with an instruction that the library does not make stays what it is.

use std::collections::{BTreeMap, HashMap};

use kelson_sys::seccomp::Instruction;

use super::code::{AND, JA, JEQ, JGE, JGT, JSET, LOAD, RETURN};
use super::code::{ARCH, NUMBER, instruction, jump};

/// How far a conditional jump reaches, less what may still come between.
const REACH: usize = 250;
/// So many single numbers of another fate are compared for one by one within a range.
const MAX_ODD: usize = 4;

/// The shorter of `program` and one that decides the same.
pub(super) fn shrink(program: Vec<Instruction>) -> Vec<Instruction> {
    match shorter(&program) {
        Some(short) if short.len() < program.len() => short,
        _ => program,
    }
}

fn shorter(program: &[Instruction]) -> Option<Vec<Instruction>> {
    let held = held(program)?;
    let mut graph = Graph::default();
    let rest = graph.all(program)?;
    let arches = constants(program, &held, HOLDS_ARCH);
    let numbers = constants(program, &held, HOLDS_NUMBER);
    let by_arch = ranges(&arches, |arch| {
        let by_number = ranges(&numbers, |number| fate(program, arch, number, &mut graph, &rest))?;
        let tree = graph.tree(&by_number)?;
        Some(match by_number.len() {
            1 => tree,
            _ => graph.node(Node::Then(instruction(LOAD, NUMBER), tree)),
        })
    })?;
    let tree = graph.tree(&by_arch)?;
    let root = match by_arch.len() {
        1 => tree,
        _ => graph.node(Node::Then(instruction(LOAD, ARCH), tree)),
    };
    Some(graph.emit(root))
}

const HOLDS_NUMBER: u8 = 1;
const HOLDS_ARCH: u8 = 2;
const HOLDS_OTHER: u8 = 4;

/// What the accumulator may hold before each instruction (0 where none comes by). `None` for a program that does what is
/// not known here: other instructions, jumps out of it, number or architecture in other ways than compared.
fn held(program: &[Instruction]) -> Option<Vec<u8>> {
    let mut held = vec![0u8; program.len()];
    // Zero, which the kernel begins with, is as good as an argument: nothing is known of it.
    *held.first_mut()? = HOLDS_OTHER;
    for (at, i) in program.iter().enumerate() {
        let before = held[at];
        let after = match (i.code, i.k) {
            (LOAD, NUMBER) => HOLDS_NUMBER,
            (LOAD, ARCH) => HOLDS_ARCH,
            (LOAD, _) => HOLDS_OTHER,
            (AND | JSET, _) if before & !HOLDS_OTHER != 0 => return None,
            (AND | JSET | JA | JEQ | JGT | JGE | RETURN, _) => before,
            _ => return None,
        };
        let next = match i.code {
            RETURN => [None, None],
            JA => [Some(i.k as usize), None],
            JEQ | JGT | JGE | JSET => [Some(usize::from(i.jt)), Some(usize::from(i.jf))],
            _ => [Some(0), None],
        };
        for distance in next.into_iter().flatten() {
            *held.get_mut(at + 1 + distance)? |= after;
        }
    }
    Some(held)
}

/// The values at which the outcome of a comparison with what is held may change, in order.
fn constants(program: &[Instruction], held: &[u8], what: u8) -> Vec<u32> {
    let compared = program
        .iter()
        .zip(held)
        .filter(|(i, held)| **held & what != 0 && matches!(i.code, JEQ | JGT | JGE));
    let mut all: Vec<u32> = compared
        .flat_map(|(i, _)| [Some(i.k), i.k.checked_add(1)])
        .flatten()
        .chain([0])
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Where something else begins, and what: all values from there to the next.
type Ranges = Vec<(u32, usize)>;

fn ranges(starts: &[u32], mut fate: impl FnMut(u32) -> Option<usize>) -> Option<Ranges> {
    let mut out: Ranges = Vec::new();
    for start in starts {
        let fate = fate(*start)?;
        if out.last().is_none_or(|(_, last)| *last != fate) {
            out.push((*start, fate));
        }
    }
    Some(out)
}

/// What becomes of a call as far as number and architecture decide it: a verdict, or the first look at anything else.
fn fate(program: &[Instruction], arch: u32, number: u32, graph: &mut Graph, rest: &[usize]) -> Option<usize> {
    let (mut at, mut held) = (0usize, None);
    loop {
        let i = program.get(at)?;
        let holds = |test: fn(u32, u32) -> bool| held.map(|held| test(held, i.k));
        let jumped = match i.code {
            LOAD if i.k == NUMBER => {
                held = Some(number);
                Some(0)
            }
            LOAD if i.k == ARCH => {
                held = Some(arch);
                Some(0)
            }
            RETURN => return Some(graph.node(Node::Return(i.k))),
            LOAD => return rest.get(at).copied(),
            JA => Some(i.k as usize),
            JEQ => holds(|held, k| held == k).map(|yes| usize::from(if yes { i.jt } else { i.jf })),
            JGT => holds(|held, k| held > k).map(|yes| usize::from(if yes { i.jt } else { i.jf })),
            JGE => holds(|held, k| held >= k).map(|yes| usize::from(if yes { i.jt } else { i.jf })),
            _ => None,
        };
        at += 1 + jumped?;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Node {
    Return(u32),
    /// An instruction without a jump, and what follows.
    Then(Instruction, usize),
    /// Code and operand of a comparison, and what follows if it holds and if not.
    Test(u16, u32, usize, usize),
}

/// Instructions by what follows them, each only once. What follows one has a lower number.
#[derive(Debug, Default)]
struct Graph {
    nodes: Vec<Node>,
    known: HashMap<Node, usize>,
}

impl Graph {
    fn node(&mut self, node: Node) -> usize {
        if let Node::Test(_, _, yes, no) = node
            && yes == no
        {
            return yes;
        }
        *self.known.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        })
    }

    /// The node of each instruction of a program.
    fn all(&mut self, program: &[Instruction]) -> Option<Vec<usize>> {
        // Jumps lead forward only, so from the end all targets are known.
        let mut nodes = vec![0; program.len()];
        for (at, i) in program.iter().enumerate().rev() {
            let target = |distance: usize| nodes.get(at + 1 + distance).copied();
            let node = match i.code {
                RETURN => Node::Return(i.k),
                JA => {
                    nodes[at] = target(i.k as usize)?;
                    continue;
                }
                LOAD | AND => Node::Then(*i, target(0)?),
                _ => Node::Test(i.code, i.k, target(i.jt.into())?, target(i.jf.into())?),
            };
            nodes[at] = self.node(node);
        }
        Some(nodes)
    }

    /// Finds the range of what is held, halving.
    fn tree(&mut self, ranges: &[(u32, usize)]) -> Option<usize> {
        let groups = groups(ranges);
        self.halve(&groups)
    }

    fn halve(&mut self, groups: &[Group]) -> Option<usize> {
        if let [group] = groups {
            let odd = group.odd.iter().rev();
            return Some(odd.fold(group.fate, |no, (number, yes)| {
                self.node(Node::Test(JEQ, *number, *yes, no))
            }));
        }
        let (low, high) = groups.split_at(groups.len() / 2);
        let start = high.first()?.start;
        let no = self.halve(low)?;
        let yes = self.halve(high)?;
        Some(self.node(Node::Test(JGE, start, yes, no)))
    }

    /// From the end to the front, so that every target has its place before a jump to it.
    fn emit(&self, root: usize) -> Vec<Instruction> {
        let mut wanted = vec![false; self.nodes.len()];
        wanted[root] = true;
        for (id, node) in self.nodes.iter().enumerate().rev() {
            if wanted[id] {
                match *node {
                    Node::Return(_) => {}
                    Node::Then(_, next) => wanted[next] = true,
                    Node::Test(_, _, yes, no) => (wanted[yes], wanted[no]) = (true, true),
                }
            }
        }
        let mut out = Backwards::default();
        let nodes = self.nodes.iter().enumerate();
        for (id, node) in nodes.filter(|(id, _)| wanted[*id]) {
            out.put(id, *node);
        }
        out.instructions.reverse();
        out.instructions
    }
}

/// A range, and single numbers in it that have another fate.
#[derive(Debug)]
struct Group {
    start: u32,
    fate: usize,
    odd: Vec<(u32, usize)>,
}

fn groups(ranges: &[(u32, usize)]) -> Vec<Group> {
    let mut out: Vec<Group> = Vec::new();
    let mut rest = ranges;
    while let [(start, fate), behind @ ..] = rest {
        rest = behind;
        let mut group = Group {
            start: *start,
            fate: *fate,
            odd: Vec::new(),
        };
        while let [(odd, other), (after, same), behind @ ..] = rest
            && *same == group.fate
            && odd.checked_add(1) == Some(*after)
            && group.odd.len() < MAX_ODD
        {
            group.odd.push((*odd, *other));
            rest = behind;
        }
        out.push(group);
    }
    out
}

/// A program that grows at its front.
#[derive(Debug, Default)]
struct Backwards {
    instructions: Vec<Instruction>,
    /// The nearest place from which a node goes on, counted from the end.
    places: BTreeMap<usize, usize>,
}

impl Backwards {
    fn put(&mut self, id: usize, node: Node) {
        let i = match node {
            Node::Return(verdict) => instruction(RETURN, verdict),
            Node::Then(i, next) => {
                if self.distance(next) > 0 {
                    self.stepping_stone(next);
                }
                i
            }
            Node::Test(code, k, yes, no) => {
                for target in [yes, no] {
                    if self.distance(target) > REACH {
                        self.stepping_stone(target);
                    }
                }
                jump(code, k, self.distance(yes), self.distance(no))
            }
        };
        self.instructions.push(i);
        self.places.insert(id, self.instructions.len());
    }

    /// Instructions between the next one and a node's.
    fn distance(&self, id: usize) -> usize {
        self.instructions.len() - self.places.get(&id).copied().unwrap_or_default()
    }

    /// Puts a node within reach: a verdict once more, else a jump of any length.
    fn stepping_stone(&mut self, id: usize) {
        let place = self.places.get(&id).and_then(|p| self.instructions.get(p - 1));
        let stone = match place {
            Some(i) if i.code == RETURN => *i,
            _ => instruction(JA, u32::try_from(self.distance(id)).unwrap_or(u32::MAX)),
        };
        self.instructions.push(stone);
        self.places.insert(id, self.instructions.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::seccomp::interpreter::{Call, run};

    fn load(offset: u32) -> Instruction {
        instruction(LOAD, offset)
    }

    #[test]
    fn neighbours_become_one_range_and_what_depends_on_arguments_stays() {
        // Numbers 0 to 99 one by one, then 100 by its first argument.
        let mut program = vec![load(NUMBER)];
        for number in 0..100 {
            program.extend([jump(JEQ, number, 0, 1), instruction(RETURN, 1)]);
        }
        program.extend([jump(JEQ, 100, 0, 2), load(16), jump(JEQ, 7, 1, 0)]);
        program.extend([instruction(RETURN, 2), instruction(RETURN, 3)]);
        let short = shrink(program);
        assert_eq!(
            short,
            [
                load(NUMBER),
                jump(JGE, 100, 0, 1),
                jump(JGE, 101, 3, 1),
                instruction(RETURN, 1),
                load(16),
                jump(JEQ, 7, 1, 0),
                instruction(RETURN, 2),
                instruction(RETURN, 3),
            ]
        );
    }

    #[test]
    fn what_is_not_understood_stays() {
        for odd in [
            // A move to X, number and architecture cut before they are compared, a jump out of the program.
            instruction(0x07, 0),
            instruction(AND, 0xff),
            jump(JSET, 1, 0, 0),
            jump(JEQ, 1, 0, 200),
        ] {
            let program = vec![load(NUMBER), odd, instruction(RETURN, 1), instruction(RETURN, 1)];
            assert_eq!(shorter(&program), None, "{odd:?}");
            assert_eq!(shrink(program.clone()), program);
        }
        assert_eq!(shorter(&[]), None);
    }

    /// Few values, so that they meet.
    fn value() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..12, Just(u32::MAX - 1), Just(u32::MAX), Just(0x4000_0000)]
    }

    /// An instruction with jumps that are cut to fit later.
    fn any_instruction() -> impl Strategy<Value = Instruction> {
        let offset = prop_oneof![Just(NUMBER), Just(ARCH), Just(8), Just(16), Just(20)];
        let test = prop_oneof![Just(JEQ), Just(JEQ), Just(JGT), Just(JGE), Just(JSET)];
        prop_oneof![
            2 => offset.prop_map(load),
            6 => (test, value(), 0usize..20, 0usize..20).prop_map(|(code, k, jt, jf)| jump(code, k, jt, jf)),
            1 => value().prop_map(|k| instruction(AND, k)),
            1 => (0u32..20).prop_map(|k| instruction(JA, k)),
            1 => (0u32..4).prop_map(|k| instruction(RETURN, k)),
        ]
    }

    /// Cuts jumps, so that all stay inside.
    fn fit(program: &mut [Instruction]) {
        let len = program.len();
        for (at, i) in program.iter_mut().enumerate() {
            let room = u8::try_from(len.saturating_sub(at + 2)).unwrap_or(u8::MAX);
            (i.jt, i.jf) = (i.jt.min(room), i.jf.min(room));
            if i.code == JA {
                i.k = i.k.min(room.into());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn it_decides_the_same(
            mut program in proptest::collection::vec(any_instruction(), 1..400),
            bits in any::<bool>(),
            calls in proptest::collection::vec((value(), value(), value(), value()), 60),
        ) {
            if !bits {
                // Most random programs look at bits of the number somewhere, which is not understood.
                program.retain(|i| !matches!(i.code, AND | JSET));
            }
            program.insert(0, load(NUMBER));
            program.push(instruction(RETURN, 9));
            fit(&mut program);
            let Some(short) = shorter(&program) else { return Ok(()) };
            for (number, arch, low, high) in calls {
                let args = [u64::from(low) | u64::from(high) << 32, 0, 0, 0, 0, 0];
                let call = Call { number, arch, args };
                prop_assert_eq!(run(&short, &call), run(&program, &call), "{:?}", call);
            }
        }
    }
}
