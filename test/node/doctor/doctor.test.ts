/** What `sojourn doctor` says of hosts of all kinds: files and programs' answers stand for the host. */

import { once } from "node:events";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Finding, Run } from "../../../node/doctor/finding.ts";
import { examineClock, examineNode, examinePort } from "../../../node/doctor/host.ts";
import { examineKvm, examineQemu, examineXen, SYSTEM_PATHS } from "../../../node/doctor/hypervisors.ts";
import { examineStorage } from "../../../node/doctor/storage.ts";
import { LevelStore } from "../../../storage/level-store.ts";
import { runSojourn } from "../cli/run-sojourn.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "sojourn-doctor-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** Programs that answer so; those that are not named cannot be run. */
function answers(all: Record<string, string>): Run {
  return async (command) => all[command];
}

function named(findings: readonly Finding[], what: string): Finding {
  const found = findings.find((finding) => finding.what === what);
  if (found === undefined) throw new Error(`no finding about ${what}`);
  return found;
}

describe("QEMU", () => {
  const host = (version: string, isKvmUsable: boolean, acceleration: "kvm" | "tcg"): Promise<Finding> =>
    examineQemu(
      { executable: "qemu", acceleration },
      { run: answers({ qemu: `QEMU emulator version ${version} (Debian)\n` }), isKvmUsable },
    );

  test("is well where KVM is, whatever its version", async () => {
    expect(await host("7.2.22", true, "kvm")).toMatchObject({ state: "ok" });
  });

  test("before 9.0 is not for guests without KVM, whose memory it corrupts", async () => {
    expect(await host("7.2.22", false, "tcg")).toMatchObject({
      state: "missing",
      costs: expect.stringContaining("corrupted"),
      remedy: expect.stringContaining("QEMU 9"),
    });
    expect(await host("8.2.1", false, "kvm")).toMatchObject({
      state: "missing",
      costs: expect.stringContaining("corrupted"),
    });
  });

  test("from 9.0 on is slow without KVM, and no more than that", async () => {
    expect(await host("10.0.2", false, "tcg")).toMatchObject({ state: "limited" });
    expect((await host("10.0.2", false, "kvm")).costs).not.toContain("corrupted");
  });

  test("that is not there is said to be missing, with the package", async () => {
    const finding = await examineQemu(
      { executable: "qemu", acceleration: "kvm" },
      { run: answers({}), isKvmUsable: true },
    );
    expect(finding).toMatchObject({ state: "missing", remedy: expect.stringContaining("apt-get install") });
  });
});

describe("KVM", () => {
  const looked = async (flags: string | undefined): Promise<Finding> => {
    const paths = { ...SYSTEM_PATHS, kvm: join(folder, "kvm"), cpuinfo: join(folder, "cpuinfo") };
    if (flags !== undefined) await writeFile(paths.kvm, "");
    await writeFile(paths.cpuinfo, `processor\t: 0\nflags\t\t: ${flags ?? "fpu"}\n`);
    return examineKvm({ paths });
  };

  test("needs its device, and a processor with virtualization", async () => {
    expect(await looked("fpu vmx sse")).toMatchObject({ state: "ok" });
    expect(await looked("fpu svm sse")).toMatchObject({ state: "ok" });
    expect(await looked("fpu sse")).toMatchObject({ state: "limited" });
  });

  test("is missing without its device", async () => {
    expect(await looked(undefined)).toMatchObject({ state: "missing" });
  });
});

describe("Xen", () => {
  const info = "host : a\nxen_version            : 4.17.5\nfree_memory : 512\nvirt_caps : hvm pv\n";
  const looked = async (capabilities: string | undefined, run: Run): Promise<Finding> => {
    const paths = { ...SYSTEM_PATHS, xenCapabilities: join(folder, "capabilities") };
    if (capabilities !== undefined) await writeFile(paths.xenCapabilities, capabilities);
    return examineXen("xl", { run, paths });
  };

  test("is named by its version in dom0", async () => {
    const finding = await looked("control_d\n", answers({ xl: info }));
    expect(finding.found).toBe("dom0 of Xen 4.17.5, 512 MiB free, hvm pv");
  });

  test("is missing where xl does not answer, in its guests, and elsewhere", async () => {
    expect(await looked(undefined, answers({ xl: info }))).toMatchObject({ state: "missing" });
    expect(await looked("control_d\n", answers({}))).toMatchObject({
      state: "missing",
      remedy: expect.stringContaining("root"),
    });
    expect(await looked("", answers({ xl: info }))).toMatchObject({
      state: "missing",
      found: expect.stringContaining("guest of Xen"),
    });
  });
});

describe("the data folder", () => {
  test("is tried, and left as it was", async () => {
    const metadataFolder = join(folder, "metadata");
    const findings = await examineStorage({ dataDir: folder, metadataFolder });
    for (const what of ["holes", "LevelDB"]) expect(named(findings, what)).toMatchObject({ state: "ok" });
    expect(named(findings, "flushes").found).toMatch(/\d ms/);
    const again = await examineStorage({ dataDir: join(folder, "not", "there"), metadataFolder });
    expect(named(again, "data folder").found).toContain("is not there yet");
    // Nothing of the probes is left in it.
    expect(await readdir(folder)).toEqual([]);
  });

  test("whose database a daemon has open is in use, not damaged", async () => {
    const metadataFolder = join(folder, "metadata");
    const store = await LevelStore.open(metadataFolder);
    try {
      const findings = await examineStorage({ dataDir: folder, metadataFolder });
      expect(named(findings, "LevelDB")).toMatchObject({
        state: "ok",
        found: expect.stringContaining("in use"),
      });
    } finally {
      await store.close();
    }
  });

  test("whose database is damaged is needed, and says so", async () => {
    const metadataFolder = join(folder, "metadata");
    await (await LevelStore.open(metadataFolder)).close();
    await writeFile(join(metadataFolder, "CURRENT"), "MANIFEST-999999\n");
    const findings = await examineStorage({ dataDir: folder, metadataFolder });
    expect(named(findings, "LevelDB")).toMatchObject({ state: "missing", isNeeded: true });
  });
});

describe("the rest", () => {
  test("Node 24 is well, 22 works untested, 18 does not", () => {
    expect(examineNode("24.21.0").state).toBe("ok");
    expect(examineNode("22.1.0").state).toBe("limited");
    expect(examineNode("18.20.0")).toMatchObject({ state: "missing", isNeeded: true });
  });

  test("a clock is right where somebody keeps it so", async () => {
    expect((await examineClock(answers({ timedatectl: "yes\n" }))).state).toBe("ok");
    expect((await examineClock(answers({ timedatectl: "no\n" }))).state).toBe("limited");
    expect((await examineClock(answers({ chronyc: "A29FC87B,time,3,1,0.1,Normal\n" }))).state).toBe("ok");
    expect((await examineClock(answers({}))).state).toBe("limited");
  });

  test("a port that somebody else has is in the way, the daemon's own is not", async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const listen = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    try {
      const foreign = await examinePort("data.listen", listen, { isUp: false });
      expect(foreign).toMatchObject({ state: "missing", isNeeded: true });
      expect(await examinePort("data.listen", listen, { isUp: true })).toMatchObject({ state: "limited" });
    } finally {
      server.close();
    }
    expect(await examinePort("data.listen", "192.0.2.1:4702", { isUp: false })).toMatchObject({
      state: "missing",
      found: expect.stringContaining("EADDRNOTAVAIL"),
    });
  });
});

describe("sojourn doctor", () => {
  test("says in JSON what it says in words, with a line for each thing", async () => {
    const dataDir = join(folder, "data");
    const { stdout } = await runSojourn(["doctor", "--data-dir", dataDir, "--json"]);
    const { findings } = JSON.parse(stdout) as { findings: Finding[] };
    const words = (await runSojourn(["doctor", "--data-dir", dataDir])).stdout;
    for (const { what, state } of findings) {
      expect(words).toContain(what);
      expect(["ok", "limited", "missing"]).toContain(state);
    }
    for (const what of ["Node", "QEMU", "KVM", "Xen", "LevelDB", "clock", "control.listen", "mDNS"]) {
      expect(named(findings, what).found).not.toBe("");
    }
  });

  test("fails where no daemon could start, and names what is needed", async () => {
    await writeFile(join(folder, "config.json"), JSON.stringify({ peers: [] }));
    const { code, stdout } = await runSojourn(["doctor", "--data-dir", folder]);
    expect(code).toBe(1);
    expect(stdout).toMatch(/^missing {2}configuration .*\(needed\)$/m);
  });
});
