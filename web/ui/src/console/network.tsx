// The network part of the machine's page: how each port is, fixed addresses in a form, everything else as text.
import { useMemo, useRef, useState } from "react";
import { Banner, Button, Dialog, ErrorNote, RadioGroup, TextField, toast } from "../design";
import { locale, t } from "../i18n";
import { ApiError, api, messageOf } from "../setup/api";
import { Section } from "./machine";

export interface NetworkConfig {
    ports?: { port: string; ipv4?: { method?: string; addresses?: string[]; gateway?: string }; [more: string]: unknown }[];
    dns?: { servers?: string[]; search?: string[] };
    [more: string]: unknown;
}

export interface NetworkState {
    ports?: { name: string; kind: string; mac: string; link: boolean; speed?: number; addresses?: { prefix: string; source: string }[]; gateways?: string[]; problems?: string[] }[];
    dns?: string[];
    unconfirmed?: string;
    taken_back?: string;
    problems?: string[];
}

const base = "/api/console/machine/network";

export function NetworkSection({ config, state, now, reload }: { config: NetworkConfig; state: NetworkState; now: string; reload: () => Promise<void> }) {
    const [open, setOpen] = useState(false);
    // Where the appliance is after a change of the address that this page came from.
    const [moved, setMoved] = useState<string>();
    // The machine's clock and this device's need not agree.
    // oxlint-disable-next-line react-hooks/exhaustive-deps
    const until = useMemo(() => state.unconfirmed && new Intl.DateTimeFormat(locale, { timeStyle: "medium" }).format(Date.now() + Date.parse(state.unconfirmed) - Date.parse(now)), [state.unconfirmed]);
    return (
        <Section title={t("console.network.title")} testId="network">
            {[...(state.problems ?? []), ...(state.ports ?? []).flatMap((p) => (p.problems ?? []).map((x) => `${p.name}: ${x}`))].map((p) => (
                <Banner key={p} icon="alert" kind="warn" role="status">
                    {p}
                </Banner>
            ))}
            {state.taken_back && (
                <Banner icon="info" kind="accent" role="status">
                    {t("console.network.takenBack", { why: state.taken_back })}
                </Banner>
            )}
            {moved && !state.taken_back && (
                <Banner icon="info" kind="accent" role="alert">
                    {t("console.network.moved")} <a href={moved}>{moved}</a>
                </Banner>
            )}
            {until && (
                <Banner
                    icon="alert"
                    kind="warn"
                    role="alert"
                    action={
                        <Button
                            onPress={() =>
                                void api("POST", `${base}/confirm`, {})
                                    .then(() => {
                                        setMoved(undefined);
                                        toast(t("console.network.kept"));
                                        return reload();
                                    })
                                    .catch((e) => toast(messageOf(e)))
                            }
                            data-testid="network-confirm"
                        >
                            {t("console.network.keep")}
                        </Button>
                    }
                >
                    {t("console.network.unconfirmed", { until })}
                </Banner>
            )}
            <ul className="console-list machine-ports">
                {(state.ports ?? []).map((p) => (
                    <li key={p.name}>
                        <span className="console-who">
                            <b>{p.name}</b>
                            <span className="hf-hint setup-mono">{p.mac}</span>
                        </span>
                        <span className={`hf-tag ${p.link ? "hf-tag--ok" : ""}`}>{p.link ? (p.speed ? t("console.network.speed", { speed: String(p.speed) }) : t("console.network.link")) : t("console.network.noLink")}</span>
                        <span className="console-when setup-mono">
                            {(p.addresses ?? []).map((a) => (
                                <div key={a.prefix}>{a.prefix}</div>
                            ))}
                        </span>
                    </li>
                ))}
            </ul>
            <div className="hf-actions">
                <Button look="plain" icon="edit" onPress={() => setOpen(true)} data-testid="network-change">
                    {t("console.network.change")}
                </Button>
            </div>
            {open && <Change config={config} state={state} onClose={() => setOpen(false)} onMoved={setMoved} reload={reload} />}
        </Section>
    );
}

type Way = "dhcp" | "static" | "text";

/** The form knows one port with a fixed address; what else there may be is edited as text. */
function simple(c: NetworkConfig): { way: Way; port: string; address: string; gateway: string; dns: string } {
    const only = c.ports?.length === 1 && !c["bonds"] && !c["vlans"] ? c.ports[0] : undefined;
    const dns = (c.dns?.servers ?? []).join(" ");
    if (only?.ipv4?.method === "static" && only.ipv4.addresses?.length === 1) return { way: "static", port: only.port, address: only.ipv4.addresses[0]!, gateway: only.ipv4.gateway ?? "", dns };
    return { way: only && only.ipv4?.method !== "static" ? "dhcp" : "text", port: "", address: "", gateway: "", dns };
}

/** Where this page is once the machine has a fixed address, if it is not there already. */
function elsewhere(address: string): string | undefined {
    const ip = address.replace(/\/.*/, "").trim();
    if (location.hostname === ip || location.hostname === "localhost") return undefined;
    return `${location.protocol}//${ip}${location.port ? `:${location.port}` : ""}${location.pathname}`;
}

/** Which field of the form a complaint about the configuration is about. */
function fieldOf(message: string): "address" | "gateway" | "dns" | undefined {
    if (message.includes("\n")) return undefined; // several
    if (/ipv4\.addresses/.test(message)) return "address";
    if (/ipv4\.gateway/.test(message)) return "gateway";
    return /dns\.servers/.test(message) ? "dns" : undefined;
}

function Change({ config, state, onClose, onMoved, reload }: { config: NetworkConfig; state: NetworkState; onClose: () => void; onMoved: (url: string | undefined) => void; reload: () => Promise<void> }) {
    const form = useRef<HTMLFormElement>(null);
    const wired = (state.ports ?? []).filter((p) => p.kind === "wired");
    const [f, setF] = useState(() => {
        const s = simple(config);
        return { ...s, port: s.port || wired.find((p) => p.link)?.mac || wired[0]?.mac || "" };
    });
    const [text, setText] = useState(() => JSON.stringify(config, null, 2));
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<ApiError>();
    const set = (change: Partial<typeof f>): void => {
        setError(undefined);
        setF({ ...f, ...change });
    };
    const wanted = (): NetworkConfig => {
        const dns = f.dns.split(/[\s,]+/).filter(Boolean);
        const search = config.dns?.search ?? [];
        // What the form does not show stays as it is.
        const rest = { ...(config["hostname"] ? { hostname: config["hostname"] } : {}), ...(dns.length + search.length > 0 ? { dns: { ...(dns.length > 0 ? { servers: dns } : {}), ...(search.length > 0 ? { search } : {}) } } : {}) };
        if (f.way === "static") return { ports: [{ port: f.port, ipv4: { method: "static", addresses: [f.address.trim()], ...(f.gateway.trim() ? { gateway: f.gateway.trim() } : {}) } }], ...rest };
        return { ports: [{ port: "any wired" }], ...rest };
    };
    const apply = async (): Promise<void> => {
        setBusy(true);
        setError(undefined);
        try {
            let c: unknown = wanted();
            if (f.way === "text") {
                try {
                    c = JSON.parse(text);
                } catch (e) {
                    throw new ApiError(0, "bad_json", t("console.network.notJSON", { why: messageOf(e) }), "text");
                }
            }
            const to = f.way === "static" ? elsewhere(f.address) : undefined;
            try {
                await api("PUT", base, c as object);
            } catch (e) {
                // The answer may have gone to where this page cannot be any more.
                if (!(to && e instanceof ApiError && e.code === "unreachable")) throw e;
            }
            onMoved(to);
            onClose();
        } catch (e) {
            const field = e instanceof ApiError && f.way !== "text" ? fieldOf(e.message) : undefined;
            if (field) form.current?.querySelector<HTMLInputElement>(`[data-testid=network-${field}]`)?.focus();
            setError(e instanceof ApiError ? e : new ApiError(0, "unknown", messageOf(e)));
        } finally {
            setBusy(false);
            await reload();
        }
    };
    const at = error && f.way !== "text" ? fieldOf(error.message) : undefined;
    // The path in the configuration says nothing to somebody who fills in a form.
    const wrong = (field: string): string | undefined => (at === field ? error!.message.replace(/^Network configuration: \S+: /, "") : undefined);
    return (
        <Dialog title={t("console.network.change")} isOpen onClose={onClose} wide>
            <form
                ref={form}
                noValidate
                onSubmit={(e) => {
                    e.preventDefault();
                    void apply();
                }}
            >
                <RadioGroup<Way>
                    label={t("console.network.way")}
                    value={f.way}
                    onChange={(way) => {
                        // The text goes on from what the form says.
                        if (way === "text" && f.way !== "text" && simple(config).way !== "text") setText(JSON.stringify(wanted(), null, 2));
                        set({ way });
                    }}
                    choices={[
                        { value: "dhcp", label: t("console.network.dhcp"), hint: t("console.network.dhcpHint") },
                        { value: "static", label: t("console.network.static"), hint: t("console.network.staticHint") },
                        { value: "text", label: t("console.network.text"), hint: t("console.network.textHint") },
                    ]}
                />
                {f.way === "static" && (
                    <>
                        <label className="hf-field">
                            <span className="hf-label">{t("console.network.port")}</span>
                            <select value={f.port} onChange={(e) => set({ port: e.target.value })}>
                                {wired.map((p) => (
                                    <option key={p.mac} value={p.mac}>
                                        {`${p.name}, ${p.link ? t("console.network.link") : t("console.network.noLink")}, ${p.mac}`}
                                    </option>
                                ))}
                            </select>
                        </label>
                        <TextField label={t("console.network.address")} value={f.address} onChange={(address) => set({ address })} error={wrong("address")} placeholder={"192.168.1.10/24"} autoComplete="off" spellCheck="false" data-testid="network-address" />
                        <TextField label={t("console.network.gateway")} value={f.gateway} onChange={(gateway) => set({ gateway })} error={wrong("gateway")} placeholder={"192.168.1.1"} autoComplete="off" spellCheck="false" data-testid="network-gateway" />
                    </>
                )}
                {f.way !== "text" && <TextField label={t("console.network.dns")} hint={f.way === "static" ? undefined : t("console.network.dnsHint")} error={wrong("dns")} value={f.dns} onChange={(dns) => set({ dns })} autoComplete="off" spellCheck="false" data-testid="network-dns" />}
                {f.way === "text" && (
                    <div className="machine-text">
                        <TextField label={t("console.network.json")} multiline value={text} onChange={setText} spellCheck="false" data-testid="network-text" />
                    </div>
                )}
                <ErrorNote>{at ? undefined : error?.message}</ErrorNote>
                <p className="hf-hint">{t("console.network.safe")}</p>
                <div className="hf-actions">
                    <Button look="plain" onPress={onClose}>
                        {t("common.cancel")}
                    </Button>
                    <Button type="submit" isPending={busy} data-testid="network-apply">
                        {t("console.network.apply")}
                    </Button>
                </div>
            </form>
        </Dialog>
    );
}
