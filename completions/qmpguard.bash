# Made by `make docs` from the parser of the command line: change that, not this.
_qmpguard() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=qmpguard word
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$words $word" in
      "qmpguard run"|"qmpguard exec"|"qmpguard check"|"qmpguard explain"|"qmpguard override"|"qmpguard status"|"qmpguard tail"|"qmpguard healthcheck"|"qmpguard config"|"qmpguard config check"|"qmpguard config show"|"qmpguard config schema"|"qmpguard rules"|"qmpguard demo") words="$words $word" ;;
    esac
  done
  COMPREPLY=()
  case "$words:$prev" in
    "qmpguard run:--config"|"qmpguard run:--qemu"|"qmpguard run:--qemu-listen"|"qmpguard run:--listen"|"qmpguard run:--takeover"|"qmpguard run:--absent"|"qmpguard run:--end-with-qemu"|"qmpguard run:--name"|"qmpguard run:--profile"|"qmpguard run:--mode"|"qmpguard run:--rules"|"qmpguard run:--extra-types"|"qmpguard run:--allow-failover-primary"|"qmpguard run:--survey-timeout"|"qmpguard run:--drift-interval"|"qmpguard run:--socket-mode"|"qmpguard run:--socket-group"|"qmpguard run:--allow-users"|"qmpguard run:--allow-groups"|"qmpguard run:--role"|"qmpguard run:--max-clients"|"qmpguard run:--max-request"|"qmpguard run:--admin"|"qmpguard run:--admin-token-file"|"qmpguard run:--admin-hosts"|"qmpguard run:--log-level"|"qmpguard run:--log-format"|"qmpguard run:--audit"|"qmpguard run:--traffic"|"qmpguard run:--traffic-exclude"|"qmpguard run:--otel") return ;;
    "qmpguard exec:--listen"|"qmpguard exec:--name"|"qmpguard exec:--profile"|"qmpguard exec:--mode"|"qmpguard exec:--rules"|"qmpguard exec:--extra-types"|"qmpguard exec:--allow-failover-primary"|"qmpguard exec:--survey-timeout"|"qmpguard exec:--drift-interval"|"qmpguard exec:--socket-mode"|"qmpguard exec:--socket-group"|"qmpguard exec:--allow-users"|"qmpguard exec:--allow-groups"|"qmpguard exec:--role"|"qmpguard exec:--max-clients"|"qmpguard exec:--max-request"|"qmpguard exec:--admin"|"qmpguard exec:--admin-token-file"|"qmpguard exec:--admin-hosts"|"qmpguard exec:--log-level"|"qmpguard exec:--log-format"|"qmpguard exec:--audit"|"qmpguard exec:--traffic"|"qmpguard exec:--traffic-exclude"|"qmpguard exec:--otel") return ;;
    "qmpguard check:--config"|"qmpguard check:--vm"|"qmpguard check:--rules"|"qmpguard check:--extra-types"|"qmpguard check:--extra-type") return ;;
    "qmpguard check:--profile") COMPREPLY=($(compgen -W "standard strict" -- "$cur")); return ;;
    "qmpguard check:--mode") COMPREPLY=($(compgen -W "enforce warn off" -- "$cur")); return ;;
    "qmpguard explain:--machine"|"qmpguard explain:--config"|"qmpguard explain:--vm"|"qmpguard explain:--rules"|"qmpguard explain:--extra-types"|"qmpguard explain:--extra-type") return ;;
    "qmpguard explain:--profile") COMPREPLY=($(compgen -W "standard strict" -- "$cur")); return ;;
    "qmpguard explain:--mode") COMPREPLY=($(compgen -W "enforce warn off" -- "$cur")); return ;;
    "qmpguard override:--rule"|"qmpguard override:--for"|"qmpguard override:--reason"|"qmpguard override:--vm"|"qmpguard override:--pid") return ;;
    "qmpguard status:--token-file") return ;;
    "qmpguard tail:--token-file"|"qmpguard tail:--vm"|"qmpguard tail:--kinds"|"qmpguard tail:--since") return ;;
    "qmpguard healthcheck:--token-file") return ;;
    "qmpguard config show:--config"|"qmpguard config show:--qemu"|"qmpguard config show:--qemu-listen"|"qmpguard config show:--listen"|"qmpguard config show:--takeover"|"qmpguard config show:--absent"|"qmpguard config show:--end-with-qemu"|"qmpguard config show:--name"|"qmpguard config show:--profile"|"qmpguard config show:--mode"|"qmpguard config show:--rules"|"qmpguard config show:--extra-types"|"qmpguard config show:--allow-failover-primary"|"qmpguard config show:--survey-timeout"|"qmpguard config show:--drift-interval"|"qmpguard config show:--socket-mode"|"qmpguard config show:--socket-group"|"qmpguard config show:--allow-users"|"qmpguard config show:--allow-groups"|"qmpguard config show:--role"|"qmpguard config show:--max-clients"|"qmpguard config show:--max-request"|"qmpguard config show:--admin"|"qmpguard config show:--admin-token-file"|"qmpguard config show:--admin-hosts"|"qmpguard config show:--log-level"|"qmpguard config show:--log-format"|"qmpguard config show:--audit"|"qmpguard config show:--traffic"|"qmpguard config show:--traffic-exclude"|"qmpguard config show:--otel") return ;;
  esac
  case "$words" in
    "qmpguard") COMPREPLY=($(compgen -W "run exec check explain override status tail healthcheck config rules demo --help --version" -- "$cur")) ;;
    "qmpguard run") COMPREPLY=($(compgen -W "--help --config --qemu --qemu-listen --listen --takeover --absent --end-with-qemu --name --profile --mode --rules --extra-types --allow-failover-primary --survey-timeout --drift-interval --socket-mode --socket-group --allow-users --allow-groups --role --max-clients --max-request --admin --admin-token-file --admin-hosts --log-level --log-format --audit --traffic --traffic-exclude --otel" -- "$cur")) ;;
    "qmpguard exec") COMPREPLY=($(compgen -W "--help --listen --name --profile --mode --rules --extra-types --allow-failover-primary --survey-timeout --drift-interval --socket-mode --socket-group --allow-users --allow-groups --role --max-clients --max-request --admin --admin-token-file --admin-hosts --log-level --log-format --audit --traffic --traffic-exclude --otel" -- "$cur")) ;;
    "qmpguard check") COMPREPLY=($(compgen -W "--help --config --vm --profile --mode --rules --extra-types --json" -- "$cur")) ;;
    "qmpguard explain") COMPREPLY=($(compgen -W "--help --machine --config --vm --profile --mode --rules --extra-types --json" -- "$cur")) ;;
    "qmpguard override") COMPREPLY=($(compgen -W "--help --rule --all-rules --for --reason --end --vm --pid" -- "$cur")) ;;
    "qmpguard status") COMPREPLY=($(compgen -W "--help --token-file --json" -- "$cur")) ;;
    "qmpguard tail") COMPREPLY=($(compgen -W "--help --token-file --vm --kinds --since --json" -- "$cur")) ;;
    "qmpguard healthcheck") COMPREPLY=($(compgen -W "--help --token-file --ready" -- "$cur")) ;;
    "qmpguard config") COMPREPLY=($(compgen -W "check show schema --help" -- "$cur")) ;;
    "qmpguard config check") COMPREPLY=($(compgen -W "--help" -- "$cur")) ;;
    "qmpguard config show") COMPREPLY=($(compgen -W "--help --config --qemu --qemu-listen --listen --takeover --absent --end-with-qemu --name --profile --mode --rules --extra-types --allow-failover-primary --survey-timeout --drift-interval --socket-mode --socket-group --allow-users --allow-groups --role --max-clients --max-request --admin --admin-token-file --admin-hosts --log-level --log-format --audit --traffic --traffic-exclude --otel" -- "$cur")) ;;
    "qmpguard config schema") COMPREPLY=($(compgen -W "--help" -- "$cur")) ;;
    "qmpguard rules") COMPREPLY=($(compgen -W "--help --json --markdown" -- "$cur")) ;;
    "qmpguard demo") COMPREPLY=($(compgen -W "--help" -- "$cur")) ;;
  esac
}
complete -o default -F _qmpguard qmpguard
