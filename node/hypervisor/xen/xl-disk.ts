/**
 * A disk of xl's configuration, as xl-disk-configuration(5) has it: `target, format, vdev, access` by position, any of
 * them by name, `target=` last with all that follows, and the prefixes of old files (`phy:`, `file:`).
 */

export type XlDisk = { vdev: string; path: string };

/** What cannot be carried: `remedy` says what to write instead. */
export class XlRefusal extends Error {
  override readonly name = "XlRefusal";
  readonly remedy: string;

  constructor(message: string, remedy: string) {
    super(message);
    this.remedy = remedy;
  }
}

type Fields = { target?: string; format?: string; vdev?: string; access?: string; rest: Map<string, string> };

const PREFIX = /^(?:(?:tap2?:)?(raw|aio|qcow2?|vhd|qed|file|phy):)/;
const RAW_PREFIXES = new Set(["raw", "aio", "file", "phy"]);
const VDEV = /^(?:xvd[a-z]{1,2}\d{0,2}|hd[a-d]\d{0,2}|sd[a-p]\d{0,2})$/;
/** They concern the back end that Sojourn puts in place of theirs. */
const OF_NO_CONCERN = new Set([
  ...["backendtype", "discard", "no-discard", "direct-io-safe", "specification", "removable"],
]);

/** Throws `XlRefusal`. */
export function parseXlDisk(text: string): XlDisk {
  const { target = "", format = "", vdev = "", access = "rw", rest } = fieldsOf(text);
  const is = (name: string): boolean => rest.has(name);
  if (is("devtype") ? rest.get("devtype") === "cdrom" : vdev.endsWith(":cdrom"))
    throw new XlRefusal(
      `the CD-ROM ${vdev.replace(":cdrom", "")}`,
      "take it out of the list: its image stays on one host",
    );
  if (is("backend") || is("backend-type"))
    throw new XlRefusal("a disk of a driver domain", "give the domain a file or a device of dom0");
  if (is("script"))
    throw new XlRefusal(
      `the disk script ${rest.get("script")}`,
      "name the device itself as target, such as /dev/sdb: Sojourn has a script of its own",
    );
  const strange = [...rest.keys()].find((name) => !OF_NO_CONCERN.has(name) && name !== "devtype");
  if (strange !== undefined) throw new XlRefusal(`the disk's ${strange}`, "take it out of the disk's line");
  if (format !== "" && format !== "raw")
    throw new XlRefusal(
      `a disk of format ${format}`,
      `\`qemu-img convert -O raw ${target} FILE\` makes a raw one; a vbd is the bytes that its guest sees`,
    );
  if (!/^(?:rw|w)$/.test(access))
    throw new XlRefusal(
      `the read-only disk ${vdev}`,
      "make it writable (access=rw) and mount it read-only in the guest, or take it out",
    );
  if (!target.startsWith("/"))
    throw new XlRefusal(`the disk "${text}" without an absolute path`, "name its file or device from / on");
  if (!VDEV.test(vdev))
    throw new XlRefusal(
      `the disk "${text}" without a name such as xvda`,
      "say vdev=xvda, or what its guest calls it",
    );
  return { vdev, path: target };
}

function fieldsOf(text: string): Fields {
  const fields: Fields = { rest: new Map() };
  const prefix = PREFIX.exec(text.trim());
  let left = text.trim();
  if (prefix !== null) {
    fields.format = RAW_PREFIXES.has(prefix[1]!) ? "raw" : prefix[1]!;
    left = left.slice(prefix[0].length);
  }
  // After one of the old prefixes nobody says the format any more.
  const positions = (["target", "format", "vdev", "access"] as const).filter(
    (name) => prefix === null || name !== "format",
  );
  let position = 0;
  while (left !== "") {
    const named = /^\s*([A-Za-z-]+)\s*=\s*/.exec(left);
    if (named?.[1] === "target") {
      fields.target = left.slice(named[0].length).trim();
      break;
    }
    const comma = left.indexOf(",");
    const part = (comma < 0 ? left : left.slice(0, comma)).trim();
    left = comma < 0 ? "" : left.slice(comma + 1);
    if (named !== null) put(fields, named[1]!, part.slice(part.indexOf("=") + 1).trim());
    else if (OF_NO_CONCERN.has(part) || part === "cdrom")
      put(fields, part === "cdrom" ? "devtype" : part, part);
    else {
      const name = positions[position];
      position += 1;
      if (name === undefined) throw new XlRefusal(`"${part}" in the disk "${text}"`, "take it out");
      if (part !== "") fields[name] = part;
    }
  }
  return fields;
}

function put(fields: Fields, name: string, value: string): void {
  if (name === "format" || name === "vdev" || name === "access") fields[name] = value;
  else fields.rest.set(name, value);
}
