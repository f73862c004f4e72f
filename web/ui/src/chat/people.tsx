// Choosing people: a search in the directory of users, by name or by full user ID.
import { useEffect, useId, useState } from "react";
import { Avatar, Icon, Spinner, TextField } from "../design";
import { t } from "../i18n";
import { localpart, useClient } from "./context";
import { useFace } from "./media";

export interface Person {
    userId: string;
    name: string;
    picture?: string | undefined;
}

const isUserId = (s: string): boolean => /^@[^\s:]+:[^\s]+$/.test(s);

/** usePeople searches the directory; undefined while it does. */
export function usePeople(term: string, without: Set<string>): { found: Person[] | undefined; failed: boolean } {
    const client = useClient();
    const [state, setState] = useState<{ term: string; found?: Person[]; failed?: boolean }>({ term: "" });
    const q = term.trim();
    useEffect(() => {
        if (!q) return;
        let gone = false;
        const timer = setTimeout(() => {
            client.searchUserDirectory({ term: q, limit: 20 }).then(
                ({ results }) => gone || setState({ term: q, found: results.map((r) => ({ userId: r.user_id, name: r.display_name || localpart(r.user_id), picture: r.avatar_url })) }),
                () => gone || setState({ term: q, failed: true }),
            );
        }, 200);
        return () => {
            gone = true;
            clearTimeout(timer);
        };
    }, [client, q]);
    if (!q) return { found: [], failed: false };
    if (state.term !== q) return { found: undefined, failed: false };
    const found = (state.found ?? []).filter((p) => !without.has(p.userId) && p.userId !== client.getUserId());
    // A complete user ID can always be taken: the person may not be listed.
    const full = q.startsWith("@") && !q.includes(":") ? `${q}:${client.getDomain()}` : q;
    if (isUserId(full) && !without.has(full) && full !== client.getUserId() && !found.some((p) => p.userId === full)) found.push({ userId: full, name: localpart(full) });
    return { found, failed: !!state.failed };
}

/** PeoplePicker lets people be found and chosen; with single, the first choice is the answer. */
export function PeoplePicker({ label, chosen, onChange, without = [], single, autoFocus }: { label: string; chosen: Person[]; onChange: (people: Person[]) => void; without?: string[]; single?: boolean; autoFocus?: boolean }) {
    const [term, setTerm] = useState("");
    const [at, setAt] = useState(0);
    const id = useId().replaceAll(":", "");
    const { found, failed } = usePeople(term, new Set([...without, ...chosen.map((p) => p.userId)]));
    const pick = (p: Person) => {
        onChange(single ? [p] : [...chosen, p]);
        setTerm("");
        setAt(0);
    };
    return (
        <div className="people-picker">
            <TextField
                label={label}
                value={term}
                onChange={(v) => (setTerm(v), setAt(0))}
                placeholder={t("people.search")}
                autoFocus={autoFocus ?? false}
                autoComplete="off"
                type="search"
                data-testid="people-search"
                onKeyDown={(e) => {
                    if (!found?.length) {
                        if (e.key === "Backspace" && !term && chosen.length) onChange(chosen.slice(0, -1));
                        return;
                    }
                    if (e.key === "ArrowDown") setAt((at + 1) % found.length);
                    else if (e.key === "ArrowUp") setAt((at + found.length - 1) % found.length);
                    else if (e.key === "Enter") pick(found[Math.min(at, found.length - 1)]!);
                    else return;
                    e.preventDefault();
                }}
            />
            {chosen.length > 0 && !single && (
                <ul className="chips" aria-label={t("people.chosen")}>
                    {chosen.map((p) => (
                        <li key={p.userId} className="chip">
                            <Avatar size="xs" name={p.name} seed={p.userId} />
                            {p.name}
                            <button type="button" aria-label={t("people.unchoose", { name: p.name })} onClick={() => onChange(chosen.filter((c) => c.userId !== p.userId))}>
                                <Icon name="close" />
                            </button>
                        </li>
                    ))}
                </ul>
            )}
            {term.trim() && (
                <ul className="people-found" role="listbox" aria-label={t("people.found")} id={id}>
                    {found?.map((p, i) => (
                        <li key={p.userId} role="option" aria-selected={i === at} data-testid="people-result" onPointerDown={(e) => e.preventDefault()} onClick={() => pick(p)}>
                            <PersonLine person={p} />
                        </li>
                    ))}
                </ul>
            )}
            <div role="status" className="hf-hint">
                {term.trim() && (found === undefined ? <Spinner /> : failed ? t("people.failed") : found.length === 0 ? t("people.none") : <span className="hf-hidden">{t("people.count", { count: found.length })}</span>)}
            </div>
        </div>
    );
}

export function PersonLine({ person }: { person: Person }) {
    const client = useClient();
    const face = useFace(client, person.picture, 32);
    return (
        <span className="person-line">
            <Avatar size="s" name={person.name} seed={person.userId} src={face} />
            <span className="person-line-text">
                <span>{person.name}</span>
                <span className="hf-hint">{person.userId}</span>
            </span>
        </span>
    );
}
