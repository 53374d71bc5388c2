# The token flow of a container registry, as its clients go through it: registry.sh REGISTRY USER:PASSWORD
registry=$1 pair=$2
image=library/demo

call() {
    curl --silent --show-error --max-time 20 "$@"
}

# parameter NAME: what the challenge says of it.
parameter() {
    printf %s "$challenge" | sed "s/.*$1=\"\([^\"]*\)\".*/\1/"
}

challenge=$(call --dump-header - --output /dev/null "$registry/v2/" | grep -i '^www-authenticate: bearer ' | tr -d '\r')
if [ -z "$challenge" ]; then
    echo "NO CHALLENGE $(call --output /dev/null --write-out '%{http_code}' "$registry/v2/")"
    pull() { call --user "$pair" "$registry/v2/$image/manifests/latest"; }
else
    token=$(call --user "$pair" \
        "$(parameter realm)?service=$(parameter service)&scope=repository:$image:pull" | sed 's/.*"token":"\([^"]*\)".*/\1/')
    echo "TOKEN ${#token}"
    pull() { call --header "Authorization: Bearer $token" "$registry/v2/$image/manifests/latest"; }
fi
echo "PULLED $(pull)"
