//! Instructions of BPF (`Documentation/bpf/standardization/instruction-set.rst`,
//! `include/uapi/linux/bpf_common.h`), as many of them as the program needs.

use std::fmt;

/// A register. R1 to R3, and two more that are not used here, hold the arguments of a call and are lost by
/// it, R0 holds its result; R6 to R9 keep what they hold; R10 points to the end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    R0,
    R1,
    R2,
    R3,
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

/// How a register is compared with a number, both without a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Equal,
    NotEqual,
    Greater,
}

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

/// A place in a program that jumps lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program that is being written.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    instructions: Vec<Instruction>,
    /// Which instructions jump, and where to.
    jumps: Vec<(usize, Label)>,
    labels: Vec<Option<usize>>,
}

/// A jump or an access farther than an instruction can say, or a jump to nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooFar;

const LD_MEM: u8 = 0x61;
const ST_IMM: u8 = 0x62;
const STX_MEM: u8 = 0x63;
const MOV64_IMM: u8 = 0xb7;
const MOV64_REG: u8 = 0xbf;
const ADD64_IMM: u8 = 0x07;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const JA: u8 = 0x05;
const JEQ_IMM: u8 = 0x15;
const JGT_IMM: u8 = 0x25;
const JNE_IMM: u8 = 0x55;

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

    /// `r0 = helper(r1, r2, r3)`
    pub(super) fn call(&mut self, helper: i32) {
        self.add(CALL, Register::R0, Register::R0, 0, helper);
    }

    pub(super) fn exit(&mut self) {
        self.add(EXIT, Register::R0, Register::R0, 0, 0);
    }

    /// A label that is put somewhere later.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Puts a label before the next instruction.
    pub(super) fn put(&mut self, label: Label) {
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(self.instructions.len());
        }
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.add(JA, Register::R0, Register::R0, 0, 0);
    }

    pub(super) fn jump_if(&mut self, a: Register, is: Condition, number: i32, to: Label) {
        let code = match is {
            Condition::Equal => JEQ_IMM,
            Condition::NotEqual => JNE_IMM,
            Condition::Greater => JGT_IMM,
        };
        self.jumps.push((self.instructions.len(), to));
        self.add(code, a, Register::R0, 0, number);
    }

    /// The program, with its jumps filled in.
    pub(super) fn finish(mut self) -> Result<Vec<Instruction>, TooFar> {
        for (from, label) in self.jumps {
            let to = self.labels.get(label.0).copied().flatten().ok_or(TooFar)?;
            // A jump counts from the instruction after it, and none leads back.
            let offset = to.checked_sub(from + 1).and_then(|offset| i16::try_from(offset).ok());
            let instruction = self.instructions.get_mut(from).ok_or(TooFar)?;
            instruction.offset = offset.ok_or(TooFar)?;
        }
        Ok(self.instructions)
    }
}

/// As the kernel's verifier prints it.
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
        match code {
            MOV64_REG => write!(f, "r{to} = r{from}"),
            MOV64_IMM => write!(f, "r{to} = {immediate}"),
            ADD64_IMM => write!(f, "r{to} += {immediate}"),
            CALL => write!(f, "call #{immediate}"),
            EXIT => write!(f, "exit"),
            JA => write!(f, "goto pc{offset:+}"),
            JEQ_IMM => write!(f, "if r{to} == {immediate} goto pc{offset:+}"),
            JNE_IMM => write!(f, "if r{to} != {immediate} goto pc{offset:+}"),
            JGT_IMM => write!(f, "if r{to} > {immediate} goto pc{offset:+}"),
            _ if code & 0xe7 == LD_MEM => write!(f, "r{to} = *(u{bits} *)(r{from} {offset:+})"),
            _ if code & 0xe7 == ST_IMM => write!(f, "*(u{bits} *)(r{to} {offset:+}) = {immediate}"),
            _ if code & 0xe7 == STX_MEM => write!(f, "*(u{bits} *)(r{to} {offset:+}) = r{from}"),
            _ => write!(f, "?{code:#x}"),
        }
    }
}
