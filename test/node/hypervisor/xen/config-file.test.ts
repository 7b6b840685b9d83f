import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { placeConfig, removeConfig } from "../../../../node/hypervisor/xen/config-file.ts";

const SPEC = { id: "0b5a4cf6-8e0f-4a52-9d4e-0d3b5f2f6a11", name: "web" };
const TEXT = `name = "web"\nuuid = "${SPEC.id}"\n`;

let root: string;
let place: { folder: string; spec: typeof SPEC };
let path: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "sojourn-config-"));
  place = { folder: join(root, "sojourn"), spec: SPEC };
  path = join(root, "sojourn", "web.cfg");
});
afterEach(() => rmSync(root, { recursive: true }));

describe("a domain's configuration in the host's folder", () => {
  it("is there while the domain is, says whose it is, and goes with it", () => {
    expect(placeConfig(place, TEXT)).toBe(true);
    expect(readFileSync(path, "utf8")).toContain("`sojourn start web`, and neither xl create nor xl migrate");
    expect(readFileSync(path, "utf8").endsWith(TEXT)).toBe(true);
    removeConfig(place);
    removeConfig(place);
    expect(existsSync(path)).toBe(false);
  });

  it("takes the place of an older one of ours", () => {
    placeConfig(place, TEXT);
    expect(placeConfig(place, `${TEXT}vcpus = 2\n`)).toBe(true);
    expect(readFileSync(path, "utf8")).toContain("vcpus = 2");
  });

  it("neither overwrites nor removes an administrator's file of that name", () => {
    placeConfig(place, TEXT);
    writeFileSync(path, TEXT);
    expect(placeConfig(place, TEXT)).toBe(false);
    removeConfig(place);
    expect(readFileSync(path, "utf8")).toBe(TEXT);
  });

  it("stays when another domain of that name goes", () => {
    placeConfig(place, TEXT);
    removeConfig({ ...place, spec: { ...SPEC, id: "11111111-1111-4111-8111-111111111111" } });
    expect(existsSync(path)).toBe(true);
  });
});
