//! Instructions of BPF (`Documentation/bpf/standardization/instruction-set.rst`,
//! `include/uapi/linux/bpf_common.h`), as many of them as the programs need.

use std::fmt;

/// A register. R1 to R4, and one more that is not used here, hold the arguments of a call and are lost by
/// it, R0 holds its result; R6 to R9 keep what they hold; R10 points to the end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R6 = 6,
    R7,
    R8,
    R9,
    R10,
}

/// How many bytes are loaded or stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    W8,
    W16,
    W32,
    W64,
}

/// An integer that one instruction loads or stores.
pub(super) trait Stored {
    const WIDTH: Width;
}

impl Stored for u8 {
    const WIDTH: Width = Width::W8;
}

impl Stored for u16 {
    const WIDTH: Width = Width::W16;
}

impl Stored for u32 {
    const WIDTH: Width = Width::W32;
}

impl Stored for u64 {
    const WIDTH: Width = Width::W64;
}

/// How a register is compared with a number, both without a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Equal,
    NotEqual,
    Greater,
    Less,
}

/// A BPF map, by its file descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapFd(pub(super) i32);

/// `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// The destination in the lower four bits of an octet, the source in the upper; the other way round
    /// on machines with the most significant octet first.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A jump target in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program that is being written.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    instructions: Vec<Instruction>,
    /// The jumps: the index of the instruction, and its target.
    jumps: Vec<(usize, Label)>,
    /// The jumps among them that end a loop.
    loops: Vec<usize>,
    labels: Vec<Option<usize>>,
}

/// A jump that no instruction can make. Instructions are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AssembleError {
    /// The label has no position.
    NoTarget { from: usize },
    /// Only the end of a loop jumps back.
    Backward { from: usize, to: usize },
    /// A jump has 16 bits for its distance.
    TooFar { from: usize, to: usize },
}

impl fmt::Display for AssembleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AssembleError::NoTarget { from } => write!(f, "instruction {from} jumps nowhere"),
            AssembleError::Backward { from, to } => {
                write!(f, "instruction {from}, which ends no loop, jumps back to instruction {to}")
            }
            AssembleError::TooFar { from, to } => {
                write!(f, "the jump from instruction {from} to {to} exceeds 16 bits")
            }
        }
    }
}

impl std::error::Error for AssembleError {}

const LD_MEM: u8 = 0x61;
const ST_IMM: u8 = 0x62;
const STX_MEM: u8 = 0x63;
const MOV64_IMM: u8 = 0xb7;
const MOV64_REG: u8 = 0xbf;
const ADD64_IMM: u8 = 0x07;
const AND64_IMM: u8 = 0x57;
const ADD64_REG: u8 = 0x0f;
const RSH64_IMM: u8 = 0x77;
const LSH64_IMM: u8 = 0x67;
const OR64_REG: u8 = 0x4f;
const LD_IMM64: u8 = 0x18;
const ATOMIC64: u8 = 0xdb;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const JA: u8 = 0x05;
const JEQ_IMM: u8 = 0x15;
const JEQ_REG: u8 = 0x1d;
const JGT_IMM: u8 = 0x25;
const JNE_IMM: u8 = 0x55;
const JNE_REG: u8 = 0x5d;
const JLT_IMM: u8 = 0xa5;
/// The lowest three bits of a jump, and those of one that compares only the lower halves.
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const CLASS: u8 = 0x07;

/// The number of an atomic operation: `BPF_XCHG`. That of `BPF_ADD` is 0.
const XCHG: i32 = 0xe1;

/// The source register of `LD_IMM64`: the number is a map's file descriptor, and the map or its only value is loaded.
const PSEUDO_MAP_FD: u8 = 1;
/// A call of a function of the kernel, not of a helper.
const PSEUDO_KFUNC_CALL: u8 = 2;
const PSEUDO_MAP_VALUE: u8 = 2;

impl Width {
    /// `BPF_SIZE`.
    fn bits(self) -> u8 {
        match self {
            Width::W32 => 0x00,
            Width::W16 => 0x08,
            Width::W8 => 0x10,
            Width::W64 => 0x18,
        }
    }
}

impl Assembler {
    fn add(&mut self, code: u8, to: Register, from: Register, offset: i16, immediate: i32) {
        let (to, from) = (to as u8, from as u8);
        let registers =
            if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
        self.instructions.push(Instruction { code, registers, offset, immediate });
    }

    /// `to = from`
    pub(super) fn copy(&mut self, to: Register, from: Register) {
        self.add(MOV64_REG, to, from, 0, 0);
    }

    /// `to = number`
    pub(super) fn set(&mut self, to: Register, number: i32) {
        self.add(MOV64_IMM, to, Register::R0, 0, number);
    }

    /// `to += number`
    pub(super) fn plus(&mut self, to: Register, number: i32) {
        self.add(ADD64_IMM, to, Register::R0, 0, number);
    }

    /// `to &= number`
    pub(super) fn mask(&mut self, to: Register, number: i32) {
        self.add(AND64_IMM, to, Register::R0, 0, number);
    }

    /// `to += from`
    pub(super) fn plus_register(&mut self, to: Register, from: Register) {
        self.add(ADD64_REG, to, from, 0, 0);
    }

    /// `to >>= bits`
    pub(super) fn shift_right(&mut self, to: Register, bits: i32) {
        self.add(RSH64_IMM, to, Register::R0, 0, bits);
    }

    /// `to <<= bits`
    pub(super) fn shift_left(&mut self, to: Register, bits: i32) {
        self.add(LSH64_IMM, to, Register::R0, 0, bits);
    }

    /// `to |= from`
    pub(super) fn or_register(&mut self, to: Register, from: Register) {
        self.add(OR64_REG, to, from, 0, 0);
    }

    /// `to = map`
    pub(super) fn load_map(&mut self, to: Register, map: MapFd) {
        self.load_64(to, PSEUDO_MAP_FD, map, 0);
    }

    /// `to = &values[0] + offset`, of an array.
    pub(super) fn load_map_value(&mut self, to: Register, map: MapFd, offset: i32) {
        self.load_64(to, PSEUDO_MAP_VALUE, map, offset);
    }

    /// Two instructions, the second with the upper half of the number.
    fn load_64(&mut self, to: Register, pseudo: u8, map: MapFd, upper: i32) {
        self.add(LD_IMM64, to, Register::R0, 0, map.0);
        if let Some(Instruction { registers, .. }) = self.instructions.last_mut() {
            *registers |= if cfg!(target_endian = "little") { pseudo << 4 } else { pseudo };
        }
        self.add(0, Register::R0, Register::R0, 0, upper);
    }

    /// `to = *(from + offset)`
    pub(super) fn load(&mut self, width: Width, to: Register, from: Register, offset: i16) {
        self.add(LD_MEM | width.bits(), to, from, offset, 0);
    }

    /// `*(to + offset) = from`
    pub(super) fn store(&mut self, width: Width, to: Register, offset: i16, from: Register) {
        self.add(STX_MEM | width.bits(), to, from, offset, 0);
    }

    /// `*(to + offset) = number`
    pub(super) fn store_number(&mut self, width: Width, to: Register, offset: i16, number: i32) {
        self.add(ST_IMM | width.bits(), to, Register::R0, offset, number);
    }

    /// `*(to + offset) += from`, atomically.
    pub(super) fn atomic_add(&mut self, to: Register, offset: i16, from: Register) {
        self.add(ATOMIC64, to, from, offset, 0);
    }

    /// `from = *(to + offset)` and `*(to + offset) = from`, atomically: since Linux 5.12.
    pub(super) fn exchange(&mut self, to: Register, offset: i16, from: Register) {
        self.add(ATOMIC64, to, from, offset, XCHG);
    }

    /// `r0 = helper(r1, r2, r3, r4)`
    pub(super) fn call(&mut self, helper: i32) {
        self.add(CALL, Register::R0, Register::R0, 0, helper);
    }

    /// Calls a function of the kernel, which has this BTF number.
    pub(super) fn call_kernel(&mut self, function: u32) {
        const _: () = assert!(Register::R2 as u8 == PSEUDO_KFUNC_CALL);
        self.add(CALL, Register::R0, Register::R2, 0, function.cast_signed());
    }

    pub(super) fn exit(&mut self) {
        self.add(EXIT, Register::R0, Register::R0, 0, 0);
    }

    /// A label without a position yet.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Sets the position of a label to the next instruction.
    pub(super) fn put(&mut self, label: Label) {
        if let Some(target) = self.labels.get_mut(label.0) {
            *target = Some(self.instructions.len());
        }
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.add(JA, Register::R0, Register::R0, 0, 0);
    }

    pub(super) fn jump_if(&mut self, a: Register, is: Condition, number: i32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.add(is.code(), a, Register::R0, 0, number);
    }

    /// The same with the lower half of the register. The upper half of an `int` is undefined in an argument.
    pub(super) fn jump_if_int(&mut self, a: Register, is: Condition, number: i32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.add(is.code() & !CLASS | JMP32, a, Register::R0, 0, number);
    }

    pub(super) fn jump_if_same(&mut self, a: Register, b: Register, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.add(JEQ_REG, a, b, 0, 0);
    }

    /// The end of a loop: jumps back to its start, as long as the register is less than the number.
    pub(super) fn repeat_while_less(&mut self, a: Register, number: i32, start: Label) {
        self.loops.push(self.instructions.len());
        self.jump_if(a, Condition::Less, number, start);
    }

    pub(super) fn jump_if_different(&mut self, a: Register, b: Register, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.add(JNE_REG, a, b, 0, 0);
    }

    /// The program, with its jumps filled in.
    pub(super) fn finish(mut self) -> Result<Vec<Instruction>, AssembleError> {
        for (from, label) in self.jumps {
            let to = self.labels.get(label.0).copied().flatten();
            let to = to.ok_or(AssembleError::NoTarget { from })?;
            if to <= from && !self.loops.contains(&from) {
                return Err(AssembleError::Backward { from, to });
            }
            // A jump counts from the instruction after it.
            let too_far = || AssembleError::TooFar { from, to };
            let distance = isize::try_from(to)
                .and_then(|to| Ok(to - isize::try_from(from + 1)?))
                .map_err(|_| too_far())?;
            let offset = i16::try_from(distance).map_err(|_| too_far())?;
            if let Some(instruction) = self.instructions.get_mut(from) {
                instruction.offset = offset;
            }
        }
        Ok(self.instructions)
    }
}

#[cfg(test)]
impl Instruction {
    /// Whether it calls a function of the program itself: `BPF_PSEUDO_CALL`.
    pub(super) fn is_call_of_program(&self) -> bool {
        self.code == CALL && self.registers != 0
    }
}

impl Condition {
    /// With `BPF_JMP` and a number.
    fn code(self) -> u8 {
        match self {
            Condition::Equal => JEQ_IMM,
            Condition::NotEqual => JNE_IMM,
            Condition::Greater => JGT_IMM,
            Condition::Less => JLT_IMM,
        }
    }
}

/// As the kernel's verifier prints it. It prints both instructions that load a map as one, with its address.
impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Instruction { code, registers, offset, immediate } = *self;
        let (to, from) = if cfg!(target_endian = "little") {
            (registers & 0xf, registers >> 4)
        } else {
            (registers >> 4, registers & 0xf)
        };
        let bits = match code & 0x18 {
            0x00 => 32,
            0x08 => 16,
            0x10 => 8,
            _ => 64,
        };
        let is_jmp32 = code & CLASS == JMP32;
        let (code, register) = if is_jmp32 { (code & !CLASS | JMP, 'w') } else { (code, 'r') };
        match code {
            MOV64_REG => write!(f, "r{to} = r{from}"),
            MOV64_IMM => write!(f, "r{to} = {immediate}"),
            ADD64_IMM => write!(f, "r{to} += {immediate}"),
            AND64_IMM => write!(f, "r{to} &= {immediate}"),
            JNE_REG => write!(f, "if r{to} != r{from} goto pc{offset:+}"),
            ADD64_REG => write!(f, "r{to} += r{from}"),
            RSH64_IMM => write!(f, "r{to} >>= {immediate}"),
            LSH64_IMM => write!(f, "r{to} <<= {immediate}"),
            OR64_REG => write!(f, "r{to} |= r{from}"),
            LD_IMM64 if from == PSEUDO_MAP_FD => write!(f, "r{to} = map {immediate}"),
            LD_IMM64 if from == PSEUDO_MAP_VALUE => write!(f, "r{to} = value of map {immediate}"),
            0 => write!(f, "  + {immediate}"),
            ATOMIC64 if immediate == XCHG => {
                write!(f, "r{from} = xchg(*(u64 *)(r{to} {offset:+}), r{from})")
            }
            ATOMIC64 => write!(f, "lock *(u64 *)(r{to} {offset:+}) += r{from}"),
            CALL if from == PSEUDO_KFUNC_CALL => write!(f, "call kernel function {immediate}"),
            CALL => write!(f, "call #{immediate}"),
            EXIT => write!(f, "exit"),
            JA => write!(f, "goto pc{offset:+}"),
            JEQ_REG => write!(f, "if r{to} == r{from} goto pc{offset:+}"),
            JEQ_IMM => write!(f, "if {register}{to} == {immediate} goto pc{offset:+}"),
            JNE_IMM => write!(f, "if {register}{to} != {immediate} goto pc{offset:+}"),
            JGT_IMM => write!(f, "if {register}{to} > {immediate} goto pc{offset:+}"),
            JLT_IMM => write!(f, "if {register}{to} < {immediate} goto pc{offset:+}"),
            _ if code & 0xe7 == LD_MEM => write!(f, "r{to} = *(u{bits} *)(r{from} {offset:+})"),
            _ if code & 0xe7 == ST_IMM => write!(f, "*(u{bits} *)(r{to} {offset:+}) = {immediate}"),
            _ if code & 0xe7 == STX_MEM => write!(f, "*(u{bits} *)(r{to} {offset:+}) = r{from}"),
            _ => write!(f, "?{code:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Register::{R0, R1, R4, R9, R10};
    use super::Width::{W8, W16, W32, W64};
    use super::*;

    /// Each with its eight octets as `include/uapi/linux/bpf.h` lays them out: code, registers, offset,
    /// number.
    #[test]
    #[cfg(target_endian = "little")]
    fn instructions_have_the_encoding_of_the_kernel() {
        let mut code = Assembler::default();
        let end = code.label();
        code.copy(R9, R1);
        code.load(W64, R1, R9, 0x18);
        code.jump_if(R1, Condition::Equal, 0, end);
        code.load(W16, R1, R9, -2);
        code.store(W8, R10, -16, R1);
        code.store_number(W32, R10, -12, 7);
        code.plus(R1, -8);
        code.mask(R1, 3);
        code.shift_right(R1, 2);
        code.shift_left(R1, 6);
        code.or_register(R1, R9);
        code.call(127);
        code.jump_if(R1, Condition::Greater, 112, end);
        code.jump_if(R1, Condition::NotEqual, 1, end);
        code.jump_if_different(R1, R9, end);
        code.exchange(R9, 8, R1);
        code.jump(end);
        code.put(end);
        code.set(R0, 0);
        code.exit();
        let octets: Vec<[u8; 8]> = code
            .finish()
            .unwrap()
            .iter()
            .map(|instruction| {
                let [a, b] = instruction.offset.to_le_bytes();
                let [c, d, e, f] = instruction.immediate.to_le_bytes();
                [instruction.code, instruction.registers, a, b, c, d, e, f]
            })
            .collect();
        assert_eq!(
            octets,
            [
                [0xbf, 0x19, 0, 0, 0, 0, 0, 0],             // r9 = r1
                [0x79, 0x91, 0x18, 0, 0, 0, 0, 0],          // r1 = *(u64 *)(r9 +24)
                [0x15, 0x01, 14, 0, 0, 0, 0, 0],            // if r1 == 0 goto pc+14
                [0x69, 0x91, 0xfe, 0xff, 0, 0, 0, 0],       // r1 = *(u16 *)(r9 -2)
                [0x73, 0x1a, 0xf0, 0xff, 0, 0, 0, 0],       // *(u8 *)(r10 -16) = r1
                [0x62, 0x0a, 0xf4, 0xff, 7, 0, 0, 0],       // *(u32 *)(r10 -12) = 7
                [0x07, 0x01, 0, 0, 0xf8, 0xff, 0xff, 0xff], // r1 += -8
                [0x57, 0x01, 0, 0, 3, 0, 0, 0],             // r1 &= 3
                [0x77, 0x01, 0, 0, 2, 0, 0, 0],             // r1 >>= 2
                [0x67, 0x01, 0, 0, 6, 0, 0, 0],             // r1 <<= 6
                [0x4f, 0x91, 0, 0, 0, 0, 0, 0],             // r1 |= r9
                [0x85, 0x00, 0, 0, 127, 0, 0, 0],           // call #127
                [0x25, 0x01, 4, 0, 112, 0, 0, 0],           // if r1 > 112 goto pc+4
                [0x55, 0x01, 3, 0, 1, 0, 0, 0],             // if r1 != 1 goto pc+3
                [0x5d, 0x91, 2, 0, 0, 0, 0, 0],             // if r1 != r9 goto pc+2
                [0xdb, 0x19, 8, 0, 0xe1, 0, 0, 0],          // r1 = xchg(*(u64 *)(r9 +8), r1)
                [0x05, 0x00, 0, 0, 0, 0, 0, 0],             // goto pc+0
                [0xb7, 0x00, 0, 0, 0, 0, 0, 0],             // r0 = 0
                [0x95, 0x00, 0, 0, 0, 0, 0, 0],             // exit
            ]
        );
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn instructions_for_maps_and_loops_have_that_encoding() {
        let mut code = Assembler::default();
        let (start, end) = (code.label(), code.label());
        code.load_map(R1, MapFd(258));
        code.load_map_value(R4, MapFd(3), 8);
        code.put(start);
        code.plus_register(R4, R9);
        code.shift_right(R0, 32);
        code.atomic_add(R4, 8, R9);
        code.jump_if_same(R1, R4, end);
        code.jump_if_int(R9, Condition::Equal, 7, end);
        code.repeat_while_less(R9, 32, start);
        code.put(end);
        let code = code.finish().unwrap();
        let octets: Vec<([u8; 2], i16, i32)> =
            code.iter().map(|it| ([it.code, it.registers], it.offset, it.immediate)).collect();
        assert_eq!(
            octets,
            [
                ([0x18, 0x11], 0, 258),
                ([0, 0], 0, 0),
                ([0x18, 0x24], 0, 3),
                ([0, 0], 0, 8),
                ([0x0f, 0x94], 0, 0),
                ([0x77, 0x00], 0, 32),
                ([0xdb, 0x94], 8, 0),
                ([0x1d, 0x41], 2, 0),
                ([0x16, 0x09], 1, 7),
                ([0xa5, 0x09], -6, 32),
            ]
        );
        let text: Vec<String> = code.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "r1 = map 258",
                "  + 0",
                "r4 = value of map 3",
                "  + 8",
                "r4 += r9",
                "r0 >>= 32",
                "lock *(u64 *)(r4 +8) += r9",
                "if r1 == r4 goto pc+2",
                "if w9 == 7 goto pc+1",
                "if r9 < 32 goto pc-6",
            ]
        );
    }

    #[test]
    fn a_jump_to_a_label_without_a_position_is_rejected() {
        let mut code = Assembler::default();
        let label = code.label();
        code.exit();
        code.jump(label);
        assert_eq!(code.finish(), Err(AssembleError::NoTarget { from: 1 }));
    }

    #[test]
    fn a_jump_back_is_refused() {
        let mut code = Assembler::default();
        let label = code.label();
        code.put(label);
        code.exit();
        code.jump(label);
        assert_eq!(code.finish(), Err(AssembleError::Backward { from: 1, to: 0 }));
    }

    #[test]
    fn a_jump_farther_than_16_bits_is_refused() {
        let far = |instructions: i16| {
            let mut code = Assembler::default();
            let label = code.label();
            code.jump(label);
            for _ in 0..instructions {
                code.exit();
            }
            code.exit();
            code.put(label);
            code.finish().map(|instructions| instructions.len())
        };
        assert_eq!(far(i16::MAX - 1), Ok(32_768));
        assert_eq!(far(i16::MAX), Err(AssembleError::TooFar { from: 0, to: 32_769 }));
    }
}
