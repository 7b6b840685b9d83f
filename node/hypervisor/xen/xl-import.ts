/**
 * A domain of xl, read from its configuration file: what `create` wants to know of it. What this product cannot carry to
 * another host is refused, with the line and the remedy: a domain that starts with less than it had is found out about
 * too late.
 */

import { randomBytes } from "node:crypto";
import { basename } from "node:path";
import type { z } from "zod";
import type { XenConfig } from "./config.ts";
import { XenOptions } from "./options.ts";
import { parseXlDisk, XlRefusal } from "./xl-disk.ts";
import { parseXlSyntax, type XlSetting, XlSyntaxError, type XlValue } from "./xl-syntax.ts";

export type XlImport = {
  name: string;
  memoryBytes: number;
  vbds: { name: string; path: string }[];
  config: z.input<typeof XenConfig>;
  /** What is not as in the file, for people. */
  notes: string[];
};

/** Where in the file, what, and what to do. */
export type XlImportProblem = { line: number; reason: string; remedy: string };

export class XlImportError extends Error {
  override readonly name = "XlImportError";
  readonly problems: readonly XlImportProblem[];

  constructor(problems: readonly XlImportProblem[]) {
    super(problems.map(({ line, reason }) => `line ${line}: ${reason}`).join("; "));
    this.problems = problems;
  }
}

const MIB = 1 << 20;
/** Of Xen's: nobody else has such addresses. */
const XEN_MAC = [0x00, 0x16, 0x3e];
const BOOTLOADERS = new Set(["pygrub"]);

/** Why a setting cannot be carried, and what to do about it. */
const REFUSED: Record<string, [reason: string, remedy: string]> = {
  pci: ["a device of this host is passed through", "take it out: it cannot move to another host"],
  usbdev: ["a device of this host is passed through", "take it out: it cannot move to another host"],
  dtdev: ["a device of this host is passed through", "take it out: it cannot move to another host"],
  nomigrate: ["the domain says itself that it must not migrate", "take it out if it may"],
  vtpm: ["a virtual TPM keeps its state in a domain of its own", "take it out"],
  vfb: ["a frame buffer of PV guests is not carried", "take it out; `xl console` goes on"],
  p9: ["a folder of this host is shared with the guest", "take it out, or give the guest a disk"],
  cpus: [
    "pinning names processors of this host",
    "take it out, and pin with `xl vcpu-pin` where the domain is",
  ],
  cpus_soft: ["pinning names processors of this host", "take it out"],
  pool: ["a cpupool is of this host", "take it out"],
  device_model_override: ["a device model of one's own is not carried", "take it out"],
  device_model_args: ["arguments for the device model are not carried", "take it out"],
  driver_domain: ["driver domains are not carried", "take it out"],
  firmware_override: ["a firmware of one's own is not carried", "take it out"],
};
/** They have the only value that a domain of ours can have, or are ours to say. */
const FIXED: Record<string, readonly string[]> = {
  on_poweroff: ["destroy"],
  on_reboot: ["restart"],
  on_soft_reset: ["soft-reset"],
  on_crash: ["destroy", "restart", "preserve", "rename-restart", "coredump-destroy", "coredump-restart"],
  on_watchdog: ["destroy", "restart", "preserve", "rename-restart"],
};

type Draft = XlImport & { root: string; extra: string; maxmem: number | undefined; vdevs: string[] };
type Taker = (value: XlValue, draft: Draft) => void;

const TAKERS: Record<string, Taker> = {
  name: (value, draft) => {
    draft.name = textOf(value);
  },
  uuid: (value, draft) => {
    draft.notes.push(`its UUID ${textOf(value)} is not kept: a domain of Sojourn gets one of its own`);
  },
  type: (value, draft) => {
    draft.config.type = oneOf(value, ["pv", "pvh", "hvm"]);
  },
  builder: (value, draft) => {
    draft.config.type = ({ hvm: "hvm", linux: "pv", generic: "pv" } as const)[
      oneOf(value, ["hvm", "linux", "generic"])
    ];
  },
  memory: (value, draft) => {
    draft.memoryBytes = numberOf(value) * MIB;
  },
  maxmem: (value, draft) => {
    draft.maxmem = numberOf(value) * MIB;
  },
  vcpus: (value, draft) => {
    draft.config.cpus = numberOf(value);
  },
  kernel: (value, draft) => {
    draft.config.kernel = kernelOf(textOf(value), draft);
  },
  ramdisk: (value, draft) => {
    draft.config.initrd = kernelOf(textOf(value), draft);
  },
  root: (value, draft) => {
    draft.root = `root=${textOf(value)}`;
  },
  extra: (value, draft) => {
    draft.extra = textOf(value);
  },
  cmdline: (value, draft) => {
    draft.config.append = textOf(value);
  },
  bootloader: (value, draft) => {
    const name = basename(textOf(value));
    if (!BOOTLOADERS.has(name))
      throw new XlRefusal(
        `the boot loader ${name}`,
        "use pygrub, or a kernel: PVH and PV boot a grub as one",
      );
    draft.config.bootloader = name as "pygrub";
  },
  tsc_mode: (value, draft) => {
    draft.config.tscMode = oneOf(value, ["default", "always_emulate", "native"]);
  },
  disk: (value, draft) => {
    for (const disk of listOf(value).map(textOf).map(parseXlDisk)) {
      if (draft.vdevs.includes(disk.vdev))
        throw new XlRefusal(`two disks ${disk.vdev}`, "give each a vdev of its own");
      draft.vdevs.push(disk.vdev);
      draft.vbds.push({ name: disk.vdev, path: disk.path });
    }
  },
  vif: (value, draft) => {
    draft.config.vifs = listOf(value).map((each) => vifOf(textOf(each), draft));
  },
};

/** Throws `XlImportError` with all that is in the way. */
export function importXl(text: string): XlImport {
  const draft: Draft = {
    ...{ name: "", memoryBytes: 0, vbds: [], config: {}, notes: [] },
    ...{ root: "", extra: "", maxmem: undefined, vdevs: [] },
  };
  const problems: XlImportProblem[] = [];
  const settings = readSettings(text);
  for (const setting of settings) {
    try {
      take(setting, draft);
    } catch (error) {
      if (!(error instanceof XlRefusal)) throw error;
      problems.push({ line: setting.line, reason: error.message, remedy: error.remedy });
    }
  }
  problems.push(...missing(draft, settings));
  if (problems.length > 0) throw new XlImportError(problems.toSorted((a, b) => a.line - b.line));
  const { name, memoryBytes, vbds, config, notes, root, extra, vdevs } = draft;
  const append = config.append ?? [root, extra].filter((part) => part !== "").join(" ");
  // xl's own default, which is not ours.
  const type = config.type ?? "pv";
  return {
    name,
    memoryBytes,
    vbds,
    notes,
    config: { ...config, type, vdevs, ...(append !== "" && { append }) },
  };
}

function readSettings(text: string): XlSetting[] {
  try {
    return parseXlSyntax(text);
  } catch (error) {
    if (!(error instanceof XlSyntaxError)) throw error;
    const remedy = "`xl -N create FILE` says what xl makes of it";
    throw new XlImportError([{ line: error.line, reason: error.message, remedy }]);
  }
}

function take({ key, value }: XlSetting, draft: Draft): void {
  const taker = entryOf(TAKERS, key);
  if (taker !== undefined) {
    taker(value, draft);
    return;
  }
  const refused = entryOf(REFUSED, key);
  // Switched off it asks for nothing.
  const isOff = value === 0 || (Array.isArray(value) && value.length === 0);
  if (refused !== undefined) {
    if (isOff) return;
    throw new XlRefusal(`${key}: ${refused[0]}`, refused[1]);
  }
  const fixed = entryOf(FIXED, key);
  if (fixed !== undefined) {
    oneOf(value, fixed, key);
    return;
  }
  if (!Object.hasOwn(XenOptions.shape, key)) {
    const remedy = "take it out if the domain runs without it; `xl.cfg(5)` says what it does";
    throw new XlRefusal(`${key}: not a setting that is carried`, remedy);
  }
  const parsed = XenOptions.shape[key as keyof typeof XenOptions.shape].safeParse(value);
  if (!parsed.success)
    throw new XlRefusal(
      `${key} = ${JSON.stringify(value)}: not a value that is carried`,
      "take it out, or give it another",
    );
  draft.config.options = { ...draft.config.options, [key]: parsed.data };
}

/** A file may call a setting what every object has. */
function entryOf<T>(table: Record<string, T>, key: string): T | undefined {
  return Object.hasOwn(table, key) ? table[key] : undefined;
}

function missing(
  { name, memoryBytes, maxmem, vbds, config }: Draft,
  settings: readonly XlSetting[],
): XlImportProblem[] {
  const lineOf = (key: string): number => settings.find((each) => each.key === key)?.line ?? 1;
  const problems: XlImportProblem[] = [];
  const has = (key: string): boolean => settings.some((each) => each.key === key);
  if (name === "" && !has("name"))
    problems.push({ line: 1, reason: "it has no name", remedy: 'name = "web"' });
  if (memoryBytes === 0 && !has("memory"))
    problems.push({ line: 1, reason: "it has no memory", remedy: "memory = 1024" });
  if (vbds.length === 0 && !has("disk"))
    problems.push({ line: 1, reason: "it has no disk", remedy: "disk = [ '/dev/vg/web,raw,xvda,rw' ]" });
  if (maxmem !== undefined && maxmem !== memoryBytes) {
    const remedy = "set memory to maxmem: a balloon's size does not travel";
    problems.push({ line: lineOf("maxmem"), reason: "maxmem is not memory", remedy });
  }
  if (config.type !== "hvm" && !["kernel", "bootloader"].some(has)) {
    const remedy = 'kernel = "…", bootloader = "pygrub", or type = "hvm"';
    problems.push({ line: 1, reason: "it says nothing of how it boots", remedy });
  }
  return problems;
}

function kernelOf(path: string, { notes }: Draft): string {
  const name = basename(path);
  notes.push(`${path} is taken from the host's folder of kernels, as ${name}, on every host`);
  return name;
}

function vifOf(text: string, { notes }: Draft): NonNullable<XlImport["config"]["vifs"]>[number] {
  const fields = new Map(
    text
      .split(",")
      .map((part) => part.trim())
      .filter((part) => part !== "")
      .map((part): [string, string] => {
        const at = part.indexOf("=");
        return at < 0 ? [part, ""] : [part.slice(0, at).trim(), part.slice(at + 1).trim()];
      }),
  );
  const script = fields.get("script");
  if (script !== undefined && basename(script) !== "vif-bridge")
    throw new XlRefusal(
      `the network script ${script}`,
      "use vif-bridge, with a bridge of that name on every host",
    );
  const { mac = randomMac(notes), bridge, type, model, rate, vifname } = Object.fromEntries(fields);
  const strange = [...fields.keys()].find(
    (name) => !["mac", "bridge", "script", "type", "model", "rate", "vifname"].includes(name),
  );
  if (strange !== undefined)
    throw new XlRefusal(`${strange} of a network interface`, "take it out of the interface's line");
  if (type !== undefined && type !== "vif" && type !== "ioemu")
    throw new XlRefusal(`a network interface of type ${type}`, "vif, or ioemu");
  return {
    mac: mac.toLowerCase(),
    ...(bridge !== undefined && { bridge }),
    ...(type !== undefined && { type }),
    ...(model !== undefined && { model }),
    ...(rate !== undefined && { rate }),
    ...(vifname !== undefined && { vifname }),
  };
}

/** xl makes one up for every boot; on another host that would be another address for the same machine. */
function randomMac(notes: string[]): string {
  const octets = [...XEN_MAC, randomBytes(1)[0]! & 0x7f, ...randomBytes(2)];
  const mac = octets.map((octet) => octet.toString(16).padStart(2, "0")).join(":");
  notes.push(`a network interface without an address keeps ${mac} from now on`);
  return mac;
}

function textOf(value: XlValue): string {
  if (typeof value === "string") return value;
  throw new XlRefusal(`${JSON.stringify(value)} is no text`, "put it into quotes");
}

function numberOf(value: XlValue): number {
  const number = typeof value === "string" && /^\d+$/.test(value) ? Number(value) : value;
  if (typeof number === "number" && Number.isSafeInteger(number) && number > 0) return number;
  throw new XlRefusal(`${JSON.stringify(value)} is no number`, "write a whole number from 1 on");
}

function listOf(value: XlValue): readonly XlValue[] {
  if (typeof value === "object") return value;
  throw new XlRefusal(`${JSON.stringify(value)} is no list`, "put it into brackets");
}

function oneOf<const T extends string>(value: XlValue, allowed: readonly T[], key = ""): T {
  const found = allowed.find((each) => each === value);
  if (found !== undefined) return found;
  const what = key === "" ? JSON.stringify(value) : `${key} = ${JSON.stringify(value)}`;
  throw new XlRefusal(`${what} is not carried`, `${allowed.join(", ")}`);
}
