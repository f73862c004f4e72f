// The console's page of how people sign in: who must have a second factor, how long passwords are and browsers stay signed
// in, and what older applications may do.
import { useState } from "react";
import { Banner, ErrorNote, RadioGroup, Switch, TextField, toast } from "../design";
import { t } from "../i18n";
import { api } from "../setup/api";
import { date, number, useLoaded } from "./load";
import { SaveForm } from "./settings";

const whos = ["nobody", "roles", "everyone"] as const;
type Who = (typeof whos)[number];

interface Rules {
    password: boolean;
    sso: boolean;
    password_alone: boolean;
    second_factor: Who;
    groups: string[];
    grace_days: number;
    password_min: number;
    session_max: string;
    session_idle: string;
    all_groups: string[];
    due?: string;
    wanted: number;
    missing: number;
}

const path = "/api/console/signin";

export function SignInPage() {
    const { value: rules, error, reload } = useLoaded<Rules>(path);
    // Each form sends what it decides about, and the rest as it is.
    const save = async (change: Partial<Rules>): Promise<void> => {
        const { due: _due, wanted: _wanted, missing: _missing, all_groups: _all, password_min: _least, session_max: _most, session_idle: _idle, ...now } = rules as Rules;
        await api<Rules>("PUT", path, { ...now, ...change });
        await reload();
        toast(t("console.signin.saved"));
    };
    return (
        <>
            <h1>{t("console.signin.title")}</h1>
            <ErrorNote>{error}</ErrorNote>
            {rules && (
                <>
                    <FactorSection rules={rules} save={save} />
                    <SessionSection rules={rules} save={save} />
                    <LegacySection rules={rules} save={save} />
                </>
            )}
        </>
    );
}

function FactorSection({ rules, save }: { rules: Rules; save: (change: Partial<Rules>) => Promise<void> }) {
    const [who, setWho] = useState<Who>(rules.second_factor);
    const [groups, setGroups] = useState(rules.groups);
    const [days, setDays] = useState(String(rules.grace_days));
    const anybody = who !== "nobody" || groups.length > 0;
    return (
        <section className="hf-card hf-card--wide" aria-labelledby="signin-factor" data-testid="signin-factor">
            <h2 id="signin-factor">{t("console.signin.factor")}</h2>
            <p>{t("console.signin.factorText")}</p>
            {rules.wanted > 0 && (
                <Banner icon={rules.missing ? "alert" : "check"} kind={rules.missing ? "warn" : "accent"}>
                    <span data-testid="signin-missing">
                        {t(rules.missing ? "console.signin.missing" : "console.signin.allHave", { missing: number(rules.missing), wanted: number(rules.wanted) })}{" "}
                        {rules.missing > 0 && rules.due && t("console.signin.due", { when: date(rules.due) })}
                    </span>
                </Banner>
            )}
            <SaveForm
                save={() => save({ second_factor: who, groups, grace_days: /^\d+$/.test(days.trim()) ? Number(days) : -1 })}
                button={t("console.signin.save")}
                testId="signin-factor-save"
                fields={(errorOf) => (
                    <>
                        <RadioGroup label={t("console.signin.who")} value={who} onChange={setWho} choices={whos.map((w) => ({ value: w, label: t(`console.signin.who.${w}`), hint: t(`console.signin.who.${w}.hint`) }))} data-testid="signin-who" />
                        {who !== "everyone" && rules.all_groups.length > 0 && (
                            <fieldset className="console-choices">
                                <legend className="hf-label">{t(who === "nobody" ? "console.signin.groups" : "console.signin.groupsToo")}</legend>
                                {rules.all_groups.map((g) => (
                                    <label key={g}>
                                        <input type="checkbox" checked={groups.includes(g)} onChange={(e) => setGroups(e.target.checked ? [...groups, g] : groups.filter((x) => x !== g))} /> {g}
                                    </label>
                                ))}
                            </fieldset>
                        )}
                        <ErrorNote>{errorOf("groups")}</ErrorNote>
                        {anybody && <TextField label={t("console.signin.grace")} hint={t("console.signin.graceHint")} type="number" inputMode="numeric" value={days} onChange={setDays} error={errorOf("grace_days")} data-testid="signin-grace" />}
                    </>
                )}
            />
        </section>
    );
}

function SessionSection({ rules, save }: { rules: Rules; save: (change: Partial<Rules>) => Promise<void> }) {
    const [least, setLeast] = useState(String(rules.password_min));
    const [most, setMost] = useState(rules.session_max);
    const [idle, setIdle] = useState(rules.session_idle);
    return (
        <section className="hf-card hf-card--wide" aria-labelledby="signin-sessions" data-testid="signin-sessions">
            <h2 id="signin-sessions">{t("console.signin.sessions")}</h2>
            <p>{t("console.signin.sessionsText")}</p>
            <SaveForm
                save={() => save({ password_min: /^\d+$/.test(least.trim()) && Number(least) > 0 ? Number(least) : -1, session_max: most.trim(), session_idle: idle.trim() || "none" })}
                button={t("console.signin.save")}
                testId="signin-sessions-save"
                fields={(errorOf) => (
                    <>
                        <TextField label={t("console.signin.passwordMin")} hint={t("console.signin.passwordMinHint")} type="number" inputMode="numeric" value={least} onChange={setLeast} error={errorOf("password_min")} data-testid="signin-password-min" />
                        <TextField label={t("console.signin.sessionMax")} hint={t("console.signin.sessionMaxHint")} value={most} onChange={setMost} error={errorOf("session_max")} autoComplete="off" data-testid="signin-session-max" />
                        <TextField label={t("console.signin.sessionIdle")} hint={t("console.signin.sessionIdleHint")} value={idle} onChange={setIdle} error={errorOf("session_idle")} autoComplete="off" data-testid="signin-session-idle" />
                    </>
                )}
            />
        </section>
    );
}

function LegacySection({ rules, save }: { rules: Rules; save: (change: Partial<Rules>) => Promise<void> }) {
    const [password, setPassword] = useState(rules.password);
    const [sso, setSSO] = useState(rules.sso);
    const [alone, setAlone] = useState(rules.password_alone);
    return (
        <section className="hf-card hf-card--wide" aria-labelledby="signin-legacy" data-testid="signin-legacy">
            <h2 id="signin-legacy">{t("console.signin.legacy")}</h2>
            <p>{t("console.signin.legacyText")}</p>
            <SaveForm
                save={() => save({ password, sso, password_alone: alone })}
                button={t("console.signin.save")}
                testId="signin-legacy-save"
                fields={() => (
                    <>
                        <Switch isSelected={password} onChange={setPassword} hint={t("console.signin.passwordHint")} data-testid="signin-password">
                            {t("console.signin.password")}
                        </Switch>
                        <Switch isSelected={alone} onChange={setAlone} isDisabled={!password} hint={t("console.signin.aloneHint")} data-testid="signin-alone">
                            {t("console.signin.alone")}
                        </Switch>
                        <Switch isSelected={sso} onChange={setSSO} hint={t("console.signin.ssoHint")} data-testid="signin-sso">
                            {t("console.signin.sso")}
                        </Switch>
                    </>
                )}
            />
        </section>
    );
}
