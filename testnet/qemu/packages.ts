/**
 * What a QEMU guest needs and a machine may not have, from Debian's packages: QEMU itself, a kernel, busybox.
 * Packages are unpacked into a cache folder of the project; nothing is installed. Where they come from is what
 * the machine's own apt sources say, with the suite of backports beside the release's own.
 */

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

export type QemuPackages = {
  /** Runs QEMU with its own libraries and firmware. */
  executable: string;
  version: string;
  kernel: string;
  /** `lib/modules/<version>` of that kernel. */
  modules: string;
  /** Statically linked. */
  busybox: string;
};

/** QEMU 7.2 and 8 corrupt a guest's memory that is migrated under TCG: fixed upstream in 9.0. */
export const QEMU_MAJOR_MIN = 9;

const QEMU = "qemu-system-x86_64";
const KERNEL = "linux-image-cloud-amd64";
const BUSYBOX = "busybox-static";
const OUTPUT_BYTES_MAX = 64 << 20;

const run = promisify(execFile);

/** From the cache folder where they are there already; `say` is told of what takes time. */
export async function qemuPackages(cacheDir: string, say: (what: string) => void): Promise<QemuPackages> {
  const installed = await versionOf(QEMU);
  const own = installed !== undefined && majorOf(installed) >= QEMU_MAJOR_MIN ? installed : undefined;
  const root = join(cacheDir, "root");
  if (!existsSync(join(root, "complete")))
    await fetchPackages(cacheDir, { say, withQemu: own === undefined });
  const kernels = (await readdir(join(root, "boot"))).filter((name) => name.startsWith("vmlinuz-"));
  const release = kernels[0]!.replace("vmlinuz-", "");
  const executable = own === undefined ? await wrapper(cacheDir, root) : QEMU;
  const version = await versionOf(executable);
  if (version === undefined || majorOf(version) < QEMU_MAJOR_MIN) {
    throw new Error(
      `QEMU ${QEMU_MAJOR_MIN} or newer is needed, and ${executable} is ${version ?? "not to be run"}; remove ${cacheDir} and try again`,
    );
  }
  return {
    executable,
    version,
    kernel: join(root, "boot", `vmlinuz-${release}`),
    modules: join(root, "lib", "modules", release),
    busybox: join(root, "bin", "busybox"),
  };
}

async function versionOf(executable: string): Promise<string | undefined> {
  try {
    const { stdout } = await run(executable, ["--version"]);
    return /version (\d+\.\d+\S*)/.exec(stdout)?.[1];
  } catch {
    return undefined;
  }
}

function majorOf(version: string): number {
  return Number.parseInt(version, 10);
}

async function fetchPackages(
  cacheDir: string,
  { say, withQemu }: { say: (what: string) => void; withQemu: boolean },
): Promise<void> {
  const apt = await Apt.open(join(cacheDir, "apt"));
  const root = join(cacheDir, "root");
  const partial = `${root}.partial`;
  await rm(partial, { recursive: true, force: true });
  await mkdir(partial, { recursive: true });
  say("reading the lists of Debian's packages");
  await apt.update();
  say("fetching a kernel and busybox");
  await apt.download([await apt.kernelPackage(), BUSYBOX]);
  if (withQemu) {
    say("fetching QEMU from backports");
    await apt.downloadWithDependencies("qemu-system-x86");
  }
  say("unpacking");
  for (const file of await apt.packages()) await run("dpkg-deb", ["-x", file, partial]);
  await writeFile(join(partial, "complete"), "");
  await rm(root, { recursive: true, force: true });
  await rename(partial, root);
}

/** QEMU finds its libraries and its firmware where they were unpacked. */
async function wrapper(cacheDir: string, root: string): Promise<string> {
  const path = join(cacheDir, QEMU);
  const usr = join(root, "usr");
  const text = `#!/bin/sh
export LD_LIBRARY_PATH='${usr}/lib/x86_64-linux-gnu'
exec '${usr}/bin/${QEMU}' -L '${usr}/share/qemu' -L '${usr}/share/seabios' "$@"
`;
  if ((await readFile(path, "utf8").catch(() => "")) !== text) {
    await writeFile(`${path}.new`, text, { mode: 0o755 });
    await rename(`${path}.new`, path);
  }
  return path;
}

/** apt with folders of its own: it reads the machine's sources and keys, and changes nothing of the machine. */
export class Apt {
  readonly #dir: string;
  readonly #suite: string;

  private constructor(dir: string, suite: string) {
    this.#dir = dir;
    this.#suite = suite;
  }

  static async open(dir: string): Promise<Apt> {
    const release = await readFile("/etc/os-release", "utf8");
    const suite = /^VERSION_CODENAME=(\w+)/m.exec(release)?.[1];
    if (suite === undefined || !/^ID(?:_LIKE)?=.*debian/m.test(release)) {
      throw new Error(
        `this run takes its guest's kernel from Debian's packages, and this is no Debian; needed: ${QEMU} ${QEMU_MAJOR_MIN} or newer and a Debian machine`,
      );
    }
    await rm(join(dir, "archives"), { recursive: true, force: true });
    for (const folder of ["archives/partial", "lists/partial", "sources"]) {
      await mkdir(join(dir, folder), { recursive: true });
    }
    for (const { name, text } of await machineSources()) {
      const ours = withBackports(text, { suite, isDeb822: name.endsWith(".sources") });
      if (ours !== "") await writeFile(join(dir, "sources", name), ours);
    }
    return new Apt(dir, suite);
  }

  async update(): Promise<void> {
    await this.#run("apt-get", ["update", "-qq"]);
  }

  /** The cloud kernel of the release is a package without contents that names the present one. */
  async kernelPackage(): Promise<string> {
    const { stdout } = await this.#run("apt-cache", ["depends", `${KERNEL}/${this.#suite}`]);
    const name = /Depends: (linux-image-[\w.+-]+)/.exec(stdout)?.[1];
    if (name === undefined) throw new Error(`apt knows no kernel behind ${KERNEL}`);
    return name;
  }

  async download(names: readonly string[]): Promise<void> {
    await this.#run("apt-get", ["download", "-qq", ...names], { cwd: join(this.#dir, "archives") });
  }

  /** Those of its dependencies too that the machine has not, or not in the version that it needs. */
  async downloadWithDependencies(name: string): Promise<void> {
    const options = ["--yes", "-qq", "--download-only", "--no-install-recommends", "--reinstall"];
    await this.#run("apt-get", ["install", ...options, "-t", `${this.#suite}-backports`, name]);
  }

  /** Those and all that they need, as for a machine that has no package yet. */
  async downloadForNewMachine(names: readonly string[]): Promise<void> {
    const status = join(this.#dir, "no-packages");
    await writeFile(status, "");
    const options = ["--yes", "-qq", "--download-only", "--no-install-recommends"];
    await this.#run("apt-get", ["-o", `Dir::State::status=${status}`, "install", ...options, ...names]);
  }

  /** What `name` depends on by name, for packages that only stand for others. */
  async dependenciesOf(name: string): Promise<string[]> {
    const { stdout } = await this.#run("apt-cache", ["depends", `${name}/${this.#suite}`]);
    return [...stdout.matchAll(/Depends: ([\w.+-]+)$/gm)].map((match) => match[1]!);
  }

  async packages(): Promise<string[]> {
    const names = await readdir(join(this.#dir, "archives"));
    return names.filter((name) => name.endsWith(".deb")).map((name) => join(this.#dir, "archives", name));
  }

  #run(command: string, args: readonly string[], options: { cwd?: string } = {}) {
    const settings = {
      "Dir::Etc::sourcelist": "/dev/null",
      "Dir::Etc::sourceparts": join(this.#dir, "sources"),
      "Dir::State::lists": join(this.#dir, "lists"),
      "Dir::Cache": this.#dir,
      "Dir::Cache::archives": join(this.#dir, "archives"),
      "Debug::NoLocking": "1",
      "APT::Sandbox::User": "root",
    };
    const flags = Object.entries(settings).flatMap(([key, value]) => ["-o", `${key}=${value}`]);
    return run(command, [...flags, ...args], { ...options, maxBuffer: OUTPUT_BYTES_MAX });
  }
}

async function machineSources(): Promise<{ name: string; text: string }[]> {
  const folder = "/etc/apt/sources.list.d";
  const names = (await readdir(folder).catch(() => [])).filter((name) => /\.(?:list|sources)$/.test(name));
  const paths = ["/etc/apt/sources.list", ...names.map((name) => join(folder, name))];
  const found = await Promise.all(
    paths.map(async (path) => ({ path, text: await readFile(path, "utf8").catch(() => "") })),
  );
  return found.map(({ path, text }) => {
    const tag = createHash("sha256").update(path).digest("hex").slice(0, 8);
    return { name: `${tag}${path.slice(path.lastIndexOf("."))}`, text };
  });
}

/** What a file says of the release's own suites, and the backports beside the release. */
export function withBackports(
  text: string,
  { suite, isDeb822 }: { suite: string; isDeb822: boolean },
): string {
  const isOurs = (name: string): boolean => name === suite || name.startsWith(`${suite}-`);
  if (isDeb822) {
    return text
      .split(/\n\s*\n/)
      .flatMap((stanza) => {
        const suites = /^Suites:\s*(.+)$/m.exec(stanza)?.[1]?.split(/\s+/).filter(isOurs) ?? [];
        if (suites.length === 0) return [];
        const all = suites.includes(suite) ? new Set([...suites, `${suite}-backports`]) : suites;
        return [stanza.replace(/^Suites:.*$/m, `Suites: ${[...all].join(" ")}`)];
      })
      .join("\n\n");
  }
  const lines = text.split("\n").filter((line) => /^\s*deb\s/.test(line));
  return lines
    .flatMap((line) => {
      const [, before, name = "", after] = /^(\s*deb\s+(?:\[[^\]]*\]\s+)?\S+\s+)(\S+)(.*)$/.exec(line) ?? [];
      if (!isOurs(name)) return [];
      return name === suite ? [line, `${before}${suite}-backports${after}`] : [line];
    })
    .map((line) => `${line}\n`)
    .join("");
}
