import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { CreateParams } from "../../../node/control/api.ts";
import { readXlDomain } from "../../../node/setup/from-xl.ts";
import { runSojourn } from "../cli/run-sojourn.ts";
import { startTestDaemon } from "../control/test-daemon.ts";

const TEXT = `name = "web"
memory = 512
bootloader = "pygrub"
disk = [ '/dev/vg0/web,raw,xvda,rw' ]
`;

let folder: string;
let file: string;
let options: { autoFolder: string; xl: string };

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sojourn-from-xl-"));
  file = join(folder, "web.cfg");
  options = { autoFolder: join(folder, "auto"), xl: join(folder, "xl") };
  writeFileSync(file, TEXT);
  mkdirSync(options.autoFolder);
  runs([]);
});
afterEach(() => rmSync(folder, { recursive: true }));

/** An xl that has domains of these names. */
function runs(names: readonly string[]): void {
  const cases = names.map((name) => `[ "$2" = "${name}" ] && exit 0\n`);
  writeFileSync(options.xl, `#!/bin/sh\n${cases.join("")}exit 1\n`);
  chmodSync(options.xl, 0o755);
}

describe("a domain that xl has run until now", () => {
  it("is taken when nobody else boots it", async () => {
    runs(["other"]);
    symlinkSync(join(folder, "other.cfg"), join(options.autoFolder, "other.cfg"));
    expect(await readXlDomain(file, options)).toMatchObject({ name: "web", memoryBytes: 512 << 20 });
  });

  it("is refused while xl runs it", async () => {
    runs(["web"]);
    await expect(readXlDomain(file, options)).rejects.toMatchObject({
      ...{ code: "XL_RUNNING", remedy: expect.stringContaining("xl shutdown -w web") },
    });
  });

  it("is refused while xendomains would boot it at every boot, by whatever name", async () => {
    const link = join(options.autoFolder, "10-first");
    symlinkSync("../web.cfg", link);
    await expect(readXlDomain(file, options)).rejects.toMatchObject({
      ...{ code: "XL_AUTOSTART", remedy: expect.stringContaining(`rm ${link}`) },
    });
  });

  it("is refused with the line and the remedy of what cannot be carried", async () => {
    writeFileSync(file, `${TEXT}pci = [ '03:00.0' ]\n`);
    await expect(readXlDomain(file, options)).rejects.toMatchObject({
      code: "XL_CONFIG",
      message: expect.stringMatching(/line 5: pci: a device.* \(take it out/),
    });
  });
});

describe("`sojourn create --from-xl`", () => {
  it("asks the daemon for that domain, and says that the file still boots it", async () => {
    const asked: CreateParams[] = [];
    await using daemon = await startTestDaemon({
      create: (params) => {
        asked.push(params);
        return { domain: "id", name: params.name, state: "running" };
      },
    });
    const { code, stdout } = await runSojourn(["create", "shop", "--from-xl", file], daemon);
    expect(code).toBe(0);
    expect(asked).toMatchObject([
      {
        ...{ name: "shop", hypervisor: "xen", memoryBytes: 512 << 20 },
        vbds: [{ name: "xvda", path: "/dev/vg0/web" }],
      },
    ]);
    expect(stdout).toContain("created shop (id)\n");
    expect(stdout).toContain(`xl create ${file}\` would still boot it on the same disks`);
  });

  it("takes nothing beside the file that the file says", async () => {
    const { code, stderr } = await runSojourn(["create", "--from-xl", file, "--memory", "1GiB"]);
    expect({ code, said: stderr.includes("no --memory beside it") }).toEqual({ code: 2, said: true });
  });
});
