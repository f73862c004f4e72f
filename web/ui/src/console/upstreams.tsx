// Providers elsewhere that people sign in with: whether they answer, what is taken over from them, and what becomes of
// their people when one is removed.
import { useState } from "react";
import { Banner, Button, CopyButton, Dialog, Empty, ErrorNote, FileTextField, RadioGroup, Switch, TextField, toast } from "../design";
import { t } from "../i18n";
import { api, messageOf } from "../setup/api";
import { date, useLoaded } from "./load";
import { SaveForm } from "./settings";

interface Settings {
    name: string;
    issuer: string;
    client_id: string;
    client_secret?: string;
    ca: string;
    scopes: string[];
    user_claim: string;
    name_claim: string;
    name_follows: boolean;
    mail_claim: string;
    mail_trusted: boolean;
    mail_taken: boolean;
    groups_claim: string;
    groups: Record<string, string>;
    require_claim: string;
    require_values: string[];
    domains: string[];
    closed: boolean;
    prompt: string;
    acr_values: string[];
    require_acr: boolean;
    require_mfa: boolean;
    trust_mfa: boolean;
    sign_out: boolean;
    subject_claim: string;
}

type Kind = "openid" | "saml";

/** What a provider of SAML and the appliance know of each other. */
interface Saml {
    metadata: string;
    acs: string;
    slo: string;
    certificate: string;
    moved?: string;
    sign_in: string;
    fingerprints: string[];
    certificate_until: string;
    single_logout: boolean;
}

interface Provider {
    id: string;
    kind: Kind;
    settings: Settings;
    secret: boolean;
    redirect_uri?: string;
    saml?: Saml;
    people: number;
    asked?: string;
    down?: string;
    unheard?: string;
}

const blank: Settings = {
    name: "",
    issuer: "",
    client_id: "",
    ca: "",
    scopes: ["profile"],
    user_claim: "preferred_username",
    name_claim: "name",
    name_follows: false,
    mail_claim: "email",
    mail_trusted: false,
    mail_taken: false,
    groups_claim: "groups",
    groups: {},
    require_claim: "",
    require_values: [],
    domains: [],
    closed: false,
    prompt: "",
    acr_values: [],
    require_acr: false,
    require_mfa: false,
    trust_mfa: false,
    sign_out: false,
    subject_claim: "",
};

// Attributes of SAML without a name are looked for by their usual ones.
const blankSaml: Settings = { ...blank, scopes: [], user_claim: "", name_claim: "", mail_claim: "", groups_claim: "" };

/** Of a federation there are larger ones; they are not a provider's own. */
const maxMetadataBytes = 1 << 20;

const words = (s: string): string[] => s.split(/[\s,]+/).filter(Boolean);

/** Groups are typed as lines of THERE = HERE; one name alone is that of both. */
export function parseGroups(text: string): Record<string, string> {
    const out: Record<string, string> = {};
    for (const line of text.split("\n")) {
        const at = line.lastIndexOf("=");
        const there = (at < 0 ? line : line.slice(0, at)).trim();
        const here = (at < 0 ? line : line.slice(at + 1)).trim();
        if (there || here) out[there] = here;
    }
    return out;
}

export const writeGroups = (g: Record<string, string>): string =>
    Object.entries(g)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([there, here]) => `${there} = ${here}`)
        .join("\n");

export function UpstreamsPage({ acts }: { acts: boolean }) {
    const { value: list, error, reload } = useLoaded<Provider[]>("/api/console/upstreams", 10);
    const [editing, setEditing] = useState<Provider>();
    const [adding, setAdding] = useState(false);
    const [removing, setRemoving] = useState<Provider>();
    const [busy, setBusy] = useState<string>();
    const test = async (p: Provider): Promise<void> => {
        setBusy(p.id);
        try {
            const { unheard } = await api<{ unheard: string }>("POST", `/api/console/upstreams/${p.id}/test`);
            toast(t(unheard ? "console.upstreams.unheardNow" : "console.upstreams.tested", { name: p.settings.name }));
        } catch (e) {
            toast(messageOf(e));
        }
        setBusy(undefined);
        await reload();
    };
    return (
        <>
            <div className="console-title">
                <h1>{t("console.upstreams.title")}</h1>
                {acts && (
                    <Button icon="add" onPress={() => setAdding(true)} data-testid="upstream-new">
                        {t("console.upstreams.new")}
                    </Button>
                )}
            </div>
            <p className="hf-hint">{t("console.upstreams.text")}</p>
            <ErrorNote>{error}</ErrorNote>
            {list?.length === 0 && <Empty icon="key" title={t("console.upstreams.none")} />}
            {(list ?? []).map((p) => (
                <section key={p.id} className="hf-card hf-card--wide" aria-label={p.settings.name || p.id} data-testid={`upstream-${p.id}`}>
                    <div className="console-title">
                        <h2>{p.settings.name || p.id}</h2>
                        <span className="console-tags">
                            <span className="hf-tag">{p.kind === "saml" ? t("console.upstreams.saml") : t("console.upstreams.openid")}</span>
                            <State of={p} />
                        </span>
                    </div>
                    {p.down && <p className="console-trouble">{p.down}</p>}
                    {p.unheard && <p className="hf-hint console-wrap">{t("console.upstreams.unheardHint", { why: p.unheard })}</p>}
                    {p.saml?.moved && (
                        <Banner icon="alert" kind="danger" role="alert">
                            {t("console.upstreams.moved", { was: p.saml.moved })}
                        </Banner>
                    )}
                    <dl className="console-facts">
                        <div>
                            <dt>{t("console.upstreams.issuer")}</dt>
                            <dd className="setup-mono">{p.settings.issuer}</dd>
                        </div>
                        <div>
                            <dt>{t("console.upstreams.asked")}</dt>
                            <dd>{date(p.asked)}</dd>
                        </div>
                        <div>
                            <dt>{t("console.upstreams.people")}</dt>
                            <dd>{t("console.upstreams.peopleOf", { count: p.people })}</dd>
                        </div>
                        {Object.keys(p.settings.groups).length > 0 && (
                            <div>
                                <dt>{t("console.upstreams.groups")}</dt>
                                <dd>
                                    {Object.entries(p.settings.groups)
                                        .map(([there, here]) => t("console.upstreams.groupTo", { there, here }))
                                        .join(", ")}
                                </dd>
                            </div>
                        )}
                        {p.saml && <SamlFacts of={p.saml} />}
                        {p.redirect_uri && (
                            <div className="console-wide">
                                <dt>{t("console.upstreams.redirect")}</dt>
                                <dd>
                                    <code>{p.redirect_uri}</code>
                                    <CopyButton text={p.redirect_uri} label={t("console.upstreams.copy")} />
                                </dd>
                            </div>
                        )}
                    </dl>
                    {p.saml && <HandOver id={p.id} of={p.saml} />}
                    {acts && (
                        <div className="hf-actions">
                            <Button look="plain" icon="trash" onPress={() => setRemoving(p)}>
                                {t("console.upstreams.remove")}
                            </Button>
                            <Button look="plain" icon="edit" onPress={() => setEditing(p)}>
                                {t("console.upstreams.change")}
                            </Button>
                            <Button onPress={() => void test(p)} isPending={busy === p.id} data-testid="upstream-test">
                                {t("console.upstreams.test")}
                            </Button>
                        </div>
                    )}
                </section>
            ))}
            {(adding || editing) && (
                <Edit
                    of={editing}
                    onSaved={() => {
                        setEditing(undefined);
                        setAdding(false);
                        void reload();
                    }}
                    onClose={() => {
                        setEditing(undefined);
                        setAdding(false);
                    }}
                />
            )}
            {removing && <Remove of={removing} onRemoved={reload} onClose={() => setRemoving(undefined)} />}
        </>
    );
}

function State({ of: p }: { of: Provider }) {
    const [look, text] = p.down ? (["hf-tag--warn", "down"] as const) : p.unheard ? (["", "unheard"] as const) : p.asked ? (["hf-tag--ok", "answers"] as const) : (["", "unasked"] as const);
    return <span className={`hf-tag ${look}`}>{t(`console.upstreams.${text}`)}</span>;
}

/** What a provider's metadata say. */
function SamlFacts({ of: s }: { of: Saml }) {
    return (
        <>
            <div>
                <dt>{t("console.upstreams.until")}</dt>
                <dd>{date(s.certificate_until)}</dd>
            </div>
            <div>
                <dt>{t("console.upstreams.slo")}</dt>
                <dd>{t(s.single_logout ? "console.upstreams.sloYes" : "console.upstreams.sloNo")}</dd>
            </div>
            <div className="console-wide">
                <dt>{t("console.upstreams.signIn")}</dt>
                <dd className="setup-mono">{s.sign_in}</dd>
            </div>
            <div className="console-wide">
                <dt>{t("console.upstreams.fingerprints")}</dt>
                {s.fingerprints.map((f) => (
                    <dd key={f}>
                        <code>{f.match(/../g)?.join(":")}</code>
                    </dd>
                ))}
            </div>
        </>
    );
}

/** What a provider of SAML has to know, to be given to whoever looks after it. */
function HandOver({ id, of: s }: { id: string; of: Saml }) {
    const row = (key: "metadata" | "acs" | "sloAt") => {
        const value = { metadata: s.metadata, acs: s.acs, sloAt: s.slo }[key];
        return (
            <div className="console-wide">
                <dt>{t(`console.upstreams.${key}`)}</dt>
                <dd>
                    <code>{value}</code>
                    <CopyButton text={value} label={t(`console.upstreams.${key}Copy`)} />
                </dd>
            </div>
        );
    };
    return (
        <>
            <h3>{t("console.upstreams.handOver")}</h3>
            <p className="hf-hint">{t("console.upstreams.handOverHint")}</p>
            <dl className="console-facts" data-testid="upstream-hand-over">
                {row("metadata")}
                {row("acs")}
                {row("sloAt")}
                <div className="console-wide">
                    <dt>{t("console.upstreams.certificate")}</dt>
                    <dd>
                        <CopyButton text={s.certificate} label={t("console.upstreams.certificateCopy")} />
                    </dd>
                </div>
            </dl>
            <div className="hf-actions">
                <a className="hf-button hf-button--plain" href={`/upstream/${id}/metadata`} download="metadata.xml" data-testid="upstream-metadata">
                    {t("console.upstreams.download")}
                </a>
            </div>
        </>
    );
}

function Edit({ of, onSaved, onClose }: { of: Provider | undefined; onSaved: () => void; onClose: () => void }) {
    const [id, setID] = useState(of?.id ?? "");
    const [kind, setKind] = useState<Kind>(of?.kind ?? "openid");
    const [s, setS] = useState(of?.settings ?? blank);
    const [secret, setSecret] = useState("");
    const [metadata, setMetadata] = useState({ text: "", at: "", entity: "" });
    const [scopes, setScopes] = useState(s.scopes.join(" "));
    const [groups, setGroups] = useState(writeGroups(s.groups));
    const [values, setValues] = useState(s.require_values.join("\n"));
    const [domains, setDomains] = useState(s.domains.join(" "));
    const [acrs, setACRs] = useState(s.acr_values.join(" "));
    const saml = kind === "saml";
    // Changing the kind keeps what both have.
    const choose = (k: Kind): void => {
        const b = k === "saml" ? blankSaml : blank;
        setKind(k);
        setS({ ...s, user_claim: b.user_claim, name_claim: b.name_claim, mail_claim: b.mail_claim, groups_claim: b.groups_claim, prompt: "" });
    };
    type Text = "name" | "issuer" | "client_id" | "subject_claim";
    const text = (key: Text, hint?: string, auto?: boolean) => <TextField label={t(`console.upstreams.${key}`)} value={s[key]} onChange={(v) => setS({ ...s, [key]: v })} hint={hint} autoComplete="off" spellCheck="false" autoFocus={!!auto} />;
    type Claim = "user_claim" | "name_claim" | "mail_claim" | "groups_claim" | "require_claim";
    const claim = (key: Claim, hint?: string) => (
        <TextField label={t(saml ? `console.upstreams.attribute.${key}` : `console.upstreams.${key}`)} value={s[key]} onChange={(v) => setS({ ...s, [key]: v })} hint={hint ?? (saml ? t("console.upstreams.attributeHint") : undefined)} autoComplete="off" spellCheck="false" />
    );
    type Flag = "name_follows" | "mail_trusted" | "mail_taken" | "closed" | "require_acr" | "require_mfa" | "trust_mfa" | "sign_out";
    const flag = (key: Flag, hint?: string) => (
        <Switch isSelected={s[key]} onChange={(v) => setS({ ...s, [key]: v })} hint={hint}>
            {t(`console.upstreams.${key}`)}
        </Switch>
    );
    const openid = (
        <>
            {text("issuer", t("console.upstreams.issuerHint"))}
            {text("client_id")}
            <TextField label={t("console.upstreams.client_secret")} type="password" value={secret} onChange={setSecret} hint={of?.secret ? t("console.upstreams.secretHint") : undefined} autoComplete="new-password" />
            <TextField label={t("console.upstreams.scopes")} value={scopes} onChange={setScopes} hint={t("console.upstreams.scopesHint")} autoComplete="off" spellCheck="false" />
            <TextField label={t("console.upstreams.ca")} multiline value={s.ca} onChange={(ca) => setS({ ...s, ca })} hint={t("console.upstreams.caHint")} spellCheck="false" />
        </>
    );
    const samlFields = (wrong: (field: string) => string | undefined) => (
        <>
            <FileTextField
                label={t("console.upstreams.theirs")}
                pick={t("console.upstreams.theirsPick")}
                accept=".xml,text/xml,application/xml,application/samlmetadata+xml"
                maxBytes={maxMetadataBytes}
                value={metadata.text}
                onChange={(text) => setMetadata({ ...metadata, text })}
                error={wrong("metadata")}
                hint={t(of ? "console.upstreams.theirsKeep" : "console.upstreams.theirsHint")}
                testId="upstream-metadata-text"
            />
            <TextField label={t("console.upstreams.theirsAt")} value={metadata.at} onChange={(at) => setMetadata({ ...metadata, at })} error={wrong("metadata_url")} hint={t("console.upstreams.theirsAtHint")} autoComplete="off" spellCheck="false" inputMode="url" />
            <TextField label={t("console.upstreams.entity")} value={metadata.entity} onChange={(entity) => setMetadata({ ...metadata, entity })} hint={t("console.upstreams.entityHint")} autoComplete="off" spellCheck="false" />
            {text("subject_claim", t("console.upstreams.subjectHint"))}
        </>
    );
    return (
        <Dialog title={of ? of.settings.name || of.id : t("console.upstreams.new")} isOpen onClose={onClose} wide>
            <SaveForm
                save={async () => {
                    await api("PUT", `/api/console/upstreams/${encodeURIComponent(id.trim() || "-!")}`, {
                        ...s,
                        kind,
                        ...(saml ? { scopes: [], ...(metadata.text.trim() && { metadata: metadata.text }), ...(metadata.at.trim() && { metadata_url: metadata.at.trim() }), ...(metadata.entity.trim() && { entity_id: metadata.entity.trim() }) } : { scopes: words(scopes), ...(secret && { client_secret: secret }) }),
                        groups: parseGroups(groups),
                        require_values: values.split("\n").map((v) => v.trim()).filter(Boolean),
                        domains: words(domains),
                        acr_values: words(acrs),
                    });
                    toast(t("console.upstreams.saved", { name: s.name }));
                    onSaved();
                }}
                button={t("common.save")}
                testId="upstream-save"
                onCancel={onClose}
                fields={(wrong) => (
                    <>
                        {!of && (
                            <>
                                <RadioGroup
                                    label={t("console.upstreams.kind")}
                                    value={kind}
                                    onChange={choose}
                                    choices={[
                                        { value: "openid", label: t("console.upstreams.openid"), hint: t("console.upstreams.openidHint") },
                                        { value: "saml", label: t("console.upstreams.saml"), hint: t("console.upstreams.samlHint") },
                                    ]}
                                />
                                <TextField label={t("console.upstreams.id")} value={id} onChange={setID} error={wrong("id")} hint={t("console.upstreams.idHint")} autoFocus autoComplete="off" spellCheck="false" />
                                {!saml && (
                                    <p className="hf-hint console-wrap">
                                        {t("console.upstreams.redirectHint")} <code>{`${location.origin}/upstream/${id.trim() || "…"}/callback`}</code>
                                    </p>
                                )}
                            </>
                        )}
                        {text("name", t("console.upstreams.nameHint"), !!of)}
                        {saml ? samlFields(wrong) : openid}
                        <h3>{t("console.upstreams.taken")}</h3>
                        {claim("user_claim", saml ? t("console.upstreams.attributeUserHint") : t("console.upstreams.claimHint"))}
                        {claim("name_claim")}
                        {flag("name_follows")}
                        {claim("mail_claim")}
                        {flag("mail_taken", t("console.upstreams.mailTakenHint"))}
                        {flag("mail_trusted", t(saml ? "console.upstreams.mailTrustedSaml" : "console.upstreams.mailTrustedHint"))}
                        {claim("groups_claim")}
                        <TextField label={t("console.upstreams.groups")} multiline value={groups} onChange={setGroups} hint={t("console.upstreams.groupsHint")} spellCheck="false" />
                        <h3>{t("console.upstreams.who")}</h3>
                        {flag("closed", t("console.upstreams.closedHint"))}
                        {claim("require_claim", t("console.upstreams.requireHint"))}
                        <TextField label={t("console.upstreams.require_values")} multiline value={values} onChange={setValues} hint={t("console.upstreams.valuesHint")} spellCheck="false" />
                        <TextField label={t("console.upstreams.domains")} value={domains} onChange={setDomains} hint={t("console.upstreams.domainsHint")} autoComplete="off" spellCheck="false" />
                        {flag("require_mfa", t(saml ? "console.upstreams.requireMfaSaml" : "console.upstreams.requireMfaHint"))}
                        {flag("trust_mfa")}
                        <label className="hf-field">
                            <span className="hf-label">{t("console.upstreams.prompt")}</span>
                            <select value={s.prompt} onChange={(e) => setS({ ...s, prompt: e.target.value })}>
                                {(saml ? (["", "login"] as const) : (["", "login", "consent", "select_account"] as const)).map((p) => (
                                    <option key={p} value={p}>
                                        {t(`console.upstreams.prompt.${p || "none"}`)}
                                    </option>
                                ))}
                            </select>
                        </label>
                        <TextField label={t(saml ? "console.upstreams.classes" : "console.upstreams.acr_values")} value={acrs} onChange={setACRs} hint={t(saml ? "console.upstreams.classesHint" : "console.upstreams.acrHint")} autoComplete="off" spellCheck="false" />
                        {flag("require_acr")}
                        <h3>{t("console.upstreams.end")}</h3>
                        {saml ? (
                            <p className="hf-hint">{t(of?.saml && !of.saml.single_logout ? "console.upstreams.sloNone" : "console.upstreams.sloHint")}</p>
                        ) : (
                            <>
                                {flag("sign_out", t("console.upstreams.signOutHint"))}
                                <p className="hf-hint console-wrap">
                                    {t("console.upstreams.backchannelHint")} <code>{`${location.origin}/upstream/${id.trim() || "…"}/backchannel-logout`}</code>
                                </p>
                            </>
                        )}
                    </>
                )}
            />
        </Dialog>
    );
}

type Fate = "keep" | "unlink" | "lock";

function Remove({ of, onRemoved, onClose }: { of: Provider; onRemoved: () => Promise<void>; onClose: () => void }) {
    const { value: n, error } = useLoaded<{ people: number; only: number }>(`/api/console/upstreams/${of.id}/people`);
    const [people, setPeople] = useState<Fate>("keep");
    return (
        <Dialog title={t("console.upstreams.removeTitle", { name: of.settings.name || of.id })} isOpen onClose={onClose} role="alertdialog">
            <p>{t("console.upstreams.removeText")}</p>
            <ErrorNote>{error}</ErrorNote>
            {n && <p>{t("console.upstreams.removePeople", { count: n.people, only: String(n.only) })}</p>}
            <SaveForm
                save={async () => {
                    const r = await api<{ locked: number }>("POST", `/api/console/upstreams/${of.id}/remove`, { people });
                    toast(people === "lock" ? t("console.upstreams.removedLocked", { count: r.locked }) : t("console.upstreams.removed", { name: of.settings.name || of.id }));
                    onClose();
                    await onRemoved();
                }}
                button={t("console.upstreams.remove")}
                look="danger"
                testId="upstream-remove"
                onCancel={onClose}
                fields={() => (
                    <RadioGroup
                        label={t("console.upstreams.fate")}
                        value={people}
                        onChange={setPeople}
                        choices={(["keep", "unlink", "lock"] as const).map((f) => ({ value: f, label: t(`console.upstreams.fate.${f}`), hint: t(`console.upstreams.fate.${f}Hint`) }))}
                    />
                )}
            />
        </Dialog>
    );
}
