import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { DomainFolder } from "../../../../node/hypervisor/domain-folder.ts";
import type { DomainSpec } from "../../../../node/hypervisor/hypervisor.ts";
import { XenHypervisor } from "../../../../node/hypervisor/xen/xen-hypervisor.ts";

const SPEC: DomainSpec = {
  id: "0b5a4cf6-8e0f-4a52-9d4e-0d3b5f2f6a11",
  name: "web",
  memoryBytes: 96 << 20,
  config: "{}",
  vbds: [],
};

/** An xl with one domain, whose state lies in a file; it notes what it is told. */
const XL = `#!/bin/sh
cd "$(dirname "$0")"
echo "$@" >>told
case "$1" in
  list) echo "Name ID Mem VCPUs State Time(s) UUID Reason-Code Security Label"; cat domain ;;
  destroy) : >domain ;;
  create) echo "web 8 96 1 -b---- 0.1 ${SPEC.id} - -" >domain ;;
esac
`;

let folder: string;
let hypervisor: XenHypervisor;
let domain: DomainFolder;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "sojourn-xen-"));
  put("xl", XL);
  // One word at the beginning, and no further one.
  put("xenstore-watch", "#!/bin/sh\necho @releaseDomain\nexec sleep 600\n");
  vi.stubEnv("PATH", `${folder}:${process.env.PATH}`);
  const runDir = join(folder, "run");
  const host = { xl: join(folder, "xl"), kernelFolder: folder, configFolder: join(folder, "configs") };
  hypervisor = new XenHypervisor({ runDir, host });
  domain = new DomainFolder({ runDir, id: SPEC.id });
  await domain.create(SPEC.id, { mode: "incoming", spec: SPEC });
});
afterEach(async () => {
  hypervisor.close();
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true });
});

function put(name: string, text: string): void {
  writeFileSync(join(folder, name), text);
  chmodSync(join(folder, name), 0o755);
}

/** As xl lists it: six letters of state, and why it has shut down. */
function isThere(state: string, reason: string): void {
  writeFileSync(join(folder, "domain"), `web 7 96 1 ${state} 12.3 ${SPEC.id} ${reason} -\n`);
}

function wasReceived(): void {
  writeFileSync(join(domain.path, "whole"), "");
}

function told(): string {
  return existsSync(join(folder, "told")) ? readFileSync(join(folder, "told"), "utf8") : "";
}

async function until(what: () => boolean | Promise<boolean>): Promise<void> {
  await vi.waitFor(async () => expect(await what()).toBe(true), { timeout: 20_000, interval: 20 });
}

describe("a domain that was received, and has no xl that waits for its end", () => {
  it("is created anew when its guest reboots, from its own settings, and then has one", async () => {
    wasReceived();
    isThere("---s--", "1");
    await hypervisor.status(SPEC.id);
    await until(() => told().includes("create"));
    await until(async () => (await hypervisor.status(SPEC.id)).detail === undefined);
    expect(await hypervisor.status(SPEC.id)).toEqual({ state: "running" });
    expect(told()).toMatch(/^destroy 7$/m);
    expect(readFileSync(join(domain.path, "xl.cfg"), "utf8")).toContain(`uuid = "${SPEC.id}"`);
    expect(existsSync(join(domain.path, "whole"))).toBe(false);
  });

  it("is cleared away when its guest powers off", async () => {
    wasReceived();
    isThere("---s--", "0");
    await hypervisor.status(SPEC.id);
    await until(() => /^destroy 7$/m.test(told()));
    expect(await hypervisor.status(SPEC.id)).toEqual({ state: "shutoff" });
  });

  it.each([
    ["is suspended for a handover", "---s--", "2"],
    ["has crashed, and is preserved", "---s--", "3"],
    ["runs", "-b----", "-"],
  ])("is left alone when it %s", async (_what, state, reason) => {
    wasReceived();
    isThere(state, reason);
    await hypervisor.status(SPEC.id);
    // The list of the status, and the one after the word of xenstore.
    await until(() => (told().match(/^list/gm)?.length ?? 0) >= 2);
    expect(told()).not.toMatch(/destroy|create/);
  });
});

it("a domain that was created here is xl's own to reboot", async () => {
  isThere("---s--", "1");
  await hypervisor.status(SPEC.id);
  await until(() => (told().match(/^list/gm)?.length ?? 0) >= 2);
  expect(told()).not.toMatch(/destroy|create/);
  expect(await hypervisor.status(SPEC.id)).toEqual({ state: "running", detail: "it reboots" });
});
