import { expect, test } from "vitest";
import { parseGroups, writeGroups } from "./upstreams";

test("groups are lines of there = here", () => {
    expect(parseGroups(" Guards = Watch\n\nCrew\ncn=a,dc=b = Elders \n")).toEqual({ Guards: "Watch", Crew: "Crew", "cn=a,dc=b": "Elders" });
    expect(parseGroups("= x")).toEqual({ "": "x" }); // refused where it is saved
    expect(parseGroups(writeGroups({ b: "2", "a = c": "1" }))).toEqual({ b: "2", "a = c": "1" });
});
