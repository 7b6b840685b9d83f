import { execFileSync, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DEVICES_FOLDER, installBlockScript } from "../../../node/hypervisor/xen/block-script.ts";
import { type HostEntry, stepsToSetUp, stepsToUndo, takeSteps } from "../../../node/setup/host-entries.ts";
import { xenEntries } from "../../../node/setup/xen.ts";
import { runSojourn } from "../cli/run-sojourn.ts";

const DAEMON_UNIT = "etc/systemd/system/sojourn.service";
const DOMAINS_UNIT = "etc/systemd/system/sojourn-domains.service";
const SCRIPT = "etc/xen/scripts/block-sojourn";
const hasVerify = spawnSync("systemd-analyze", ["--version"]).status === 0;

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "sojourn-root-"));
});
afterEach(() => rmSync(root, { recursive: true }));

function entriesOf(options: Partial<Parameters<typeof xenEntries>[0]> = {}): HostEntry[] {
  return xenEntries({ program: ["/usr/local/bin/sojourn"], dataDir: "/var/lib/sojourn", ...options });
}

function setUp(entries = entriesOf()): void {
  takeSteps(stepsToSetUp(entries, root), root);
}

function textOf(path: string): string {
  return readFileSync(join(root, path), "utf8");
}

/** Everything below the root but folders. */
function filesThere(): string[] {
  const all = readdirSync(root, { recursive: true, withFileTypes: true });
  return all.filter((each) => !each.isDirectory()).map(({ name }) => name);
}

describe("setting a Xen host up", () => {
  it("puts the block script where xl looks for it, executable", () => {
    setUp();
    expect(statSync(join(root, SCRIPT)).mode & 0o777).toBe(0o755);
    execFileSync("bash", ["-n", join(root, SCRIPT)]);
  });

  it("has nothing left to do the second time", () => {
    setUp();
    expect(stepsToSetUp(entriesOf(), root)).toEqual([]);
  });

  it("rewrites what it wrote, and only that, when the program lies elsewhere", () => {
    setUp();
    const steps = stepsToSetUp(entriesOf({ program: ["/opt/sojourn/bin/sojourn"] }), root);
    expect(steps.map(({ action, path }) => [action, path])).toEqual([
      ["rewrite", `/${DAEMON_UNIT}`],
      ["rewrite", `/${DOMAINS_UNIT}`],
    ]);
  });

  it.each([
    ["a file without its line", () => writeFileSync(join(root, SCRIPT), "#!/bin/sh\n")],
    ["a link to elsewhere", () => symlinkSync("/dev/null", join(root, SCRIPT))],
    ["a folder", () => mkdirSync(join(root, SCRIPT))],
  ])("changes nothing while %s is in the way, and says which", (_what, put) => {
    mkdirSync(join(root, "etc/xen/scripts"), { recursive: true });
    put();
    expect(() => setUp()).toThrow(/\/etc\/xen\/scripts\/block-sojourn: there already/);
    expect(existsSync(join(root, DAEMON_UNIT))).toBe(false);
  });

  it("undone, leaves what others wrote and nothing of its own", () => {
    setUp();
    writeFileSync(join(root, "etc/xen/sojourn/web.cfg"), 'name = "web"\n');
    writeFileSync(join(root, "var/lib/sojourn/hooks/pre-migrate"), "#!/bin/sh\n");
    rmSync(join(root, SCRIPT));
    writeFileSync(join(root, SCRIPT), "#!/bin/sh\n# mine\n");
    const steps = stepsToUndo(entriesOf(), root);
    expect(steps.filter(({ action }) => action === "leave").map(({ path }) => path)).toEqual([
      "/var/lib/sojourn/hooks",
      "/var/lib/sojourn",
      "/etc/xen/sojourn",
      `/${SCRIPT}`,
    ]);
    takeSteps(steps, root);
    expect(filesThere().sort()).toEqual(["block-sojourn", "pre-migrate", "web.cfg"]);
  });
});

describe("the units", () => {
  it.skipIf(!hasVerify)("are ones that systemd understands", () => {
    setUp(entriesOf({ program: [process.execPath, "/srv/a folder/100%/bin.js"], dataDir: "/srv/the data" }));
    const { status, stderr } = spawnSync(
      "systemd-analyze",
      ["verify", "--man=no", join(root, DAEMON_UNIT), join(root, DOMAINS_UNIT)],
      { encoding: "utf8" },
    );
    // Other units of the machine may be complained about: ours must not.
    expect(stderr.split("\n").filter((line) => line.includes("sojourn"))).toEqual([]);
    expect(status).toBe(0);
  });

  it("end the domains before the daemon, and the daemon before xendomains", () => {
    setUp();
    const unitsBefore = (path: string): string[] => /^After=(.*)$/m.exec(textOf(path))![1]!.split(" ");
    expect(unitsBefore(DOMAINS_UNIT)).toEqual(
      expect.arrayContaining(["sojourn.service", "xendomains.service"]),
    );
    expect(unitsBefore(DAEMON_UNIT)).toContain("xendomains.service");
    // A restart of the daemon is none of the domains.
    expect(textOf(DOMAINS_UNIT)).not.toMatch(/^(?:Requires|BindsTo|PartOf)=/m);
  });

  it("end nothing but the daemon with the daemon", () => {
    setUp();
    expect(textOf(DAEMON_UNIT)).toMatch(/^KillMode=process$/m);
    expect(textOf(DAEMON_UNIT)).toMatch(/^Restart=always$/m);
    expect(textOf(DAEMON_UNIT)).toMatch(/^OOMPolicy=continue$/m);
  });

  it("quote what systemd would take apart", () => {
    setUp(entriesOf({ program: ["/srv/a b/$x", "50%"] }));
    expect(textOf(DAEMON_UNIT)).toContain('ExecStart="/srv/a b/$$x" 50%% up --data-dir /var/lib/sojourn\n');
  });
});

describe("the daemon's own installation of the block script", () => {
  it("writes it, and does not overwrite one that it did not write", () => {
    installBlockScript(root);
    expect(stepsToSetUp(entriesOf(), root).some(({ path }) => path === `/${SCRIPT}`)).toBe(true);
    writeFileSync(join(root, "block-sojourn"), "#!/bin/sh\n");
    expect(() => installBlockScript(root)).toThrow(/was not written by sojourn; move it out of the way/);
  });
});

describe("`sojourn setup --xen`", () => {
  const args = (...more: string[]): string[] => {
    return [
      "setup",
      "--xen",
      "--root",
      root,
      "--program",
      "/usr/bin/sojourn",
      "--data-dir",
      "/var/lib/s",
      ...more,
    ];
  };

  it("without --yes and a terminal shows what it would do, and does nothing", async () => {
    const { code, stdout } = await runSojourn(args());
    expect(code).toBe(0);
    expect(stdout).toContain(`  write    /${SCRIPT} `);
    expect(stdout).toContain("Nothing was done; --yes does it.");
    expect(filesThere()).toEqual([]);
  });

  it("does it with --yes, for programs in JSON", async () => {
    const { code, stdout } = await runSojourn(args("--yes", "--json"));
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ done: true });
    expect(textOf(DAEMON_UNIT)).toContain("ExecStart=/usr/bin/sojourn up --data-dir /var/lib/s\n");
  });

  it("takes nothing away while domains are attached", async () => {
    setUp();
    mkdirSync(join(root, DEVICES_FOLDER, "3f2a"), { recursive: true });
    const { code, stderr } = await runSojourn(args("--undo", "--yes"));
    expect(code).toBe(1);
    expect(stderr).toMatch(/domains of sojourn are on this host: 3f2a.*\n.*remedy: `sojourn drain`/);
    expect(existsSync(join(root, DAEMON_UNIT))).toBe(true);
  });

  it("wants to be told what for", async () => {
    const { code, stderr } = await runSojourn(["setup"]);
    expect({ code, said: stderr.includes("--xen") }).toEqual({ code: 2, said: true });
  });
});
