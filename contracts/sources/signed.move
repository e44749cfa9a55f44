/// What people sign off the chain, rebuilt byte by byte: a client's consent, an orchestrator's claim, an operator's word.
///
/// Each message names its purpose, this chain and this contract, so that a signature is good for one thing in one place.
/// Layouts (BCS): `cactus_mesh/core/settlement.py`.
module cactus_mesh::signed {
    use std::bcs;
    use std::hash;
    use std::vector;
    use aptos_std::ed25519;
    use aptos_std::from_bcs;
    use aptos_framework::chain_id;

    const CONSENT_DOMAIN: vector<u8> = b"cactus_payment::consent::v1";
    const CLAIM_DOMAIN: vector<u8> = b"cactus_payment::claim::v1";
    const OPERATOR_DOMAIN: vector<u8> = b"cactus_payment::operator::v1";
    const PUBLIC_KEY_BYTES: u64 = 32;
    const SIGNATURE_BYTES: u64 = 64;
    /// The scheme byte of a single Ed25519 key in Aptos's authentication keys.
    const ED25519_SCHEME: u8 = 0;

    struct TaskConsent has drop {
        domain: vector<u8>,
        chain_id: u8,
        contract: address,
        client: address,
        router: address,
        task_id: vector<u8>,
        nonce: u64,
        max_price: u64,
        expires_at: u64
    }

    struct SettlementClaim has drop {
        domain: vector<u8>,
        chain_id: u8,
        contract: address,
        client: address,
        router: address,
        orchestrator: address,
        delegate: address,
        delegate_bps: u64,
        task_id: vector<u8>,
        model_digest: vector<u8>,
        complexity: u64,
        compute_ms: u64,
        price: u64,
        result_hash: vector<u8>
    }

    struct OperatorConsent has drop {
        domain: vector<u8>,
        chain_id: u8,
        contract: address,
        owner: address,
        operator: address
    }

    /// The client lets `router` spend at most `max_price` octas on one task, until `expires_at`.
    public fun consent_bytes(
        client: address, router: address, task_id: vector<u8>, nonce: u64, max_price: u64, expires_at: u64
    ): vector<u8> {
        bcs::to_bytes(
            &TaskConsent {
                domain: CONSENT_DOMAIN,
                chain_id: chain_id::get(),
                contract: @cactus_mesh,
                client,
                router,
                task_id,
                nonce,
                max_price,
                expires_at
            }
        )
    }

    /// What an orchestrator claims for one task.
    public fun claim_bytes(
        client: address,
        router: address,
        orchestrator: address,
        delegate: address,
        delegate_bps: u64,
        task_id: vector<u8>,
        model_digest: vector<u8>,
        complexity: u64,
        compute_ms: u64,
        price: u64,
        result_hash: vector<u8>
    ): vector<u8> {
        bcs::to_bytes(
            &SettlementClaim {
                domain: CLAIM_DOMAIN,
                chain_id: chain_id::get(),
                contract: @cactus_mesh,
                client,
                router,
                orchestrator,
                delegate,
                delegate_bps,
                task_id,
                model_digest,
                complexity,
                compute_ms,
                price,
                result_hash
            }
        )
    }

    /// An operator's key agrees to work for `owner`'s stake.
    public fun operator_bytes(owner: address, operator: address): vector<u8> {
        bcs::to_bytes(
            &OperatorConsent {
                domain: OPERATOR_DOMAIN,
                chain_id: chain_id::get(),
                contract: @cactus_mesh,
                owner,
                operator
            }
        )
    }

    public fun is_public_key(bytes: &vector<u8>): bool {
        vector::length(bytes) == PUBLIC_KEY_BYTES
    }

    /// Whether `signature` is `public_key`'s over `message`; anything malformed is simply false.
    public fun verifies(public_key: vector<u8>, message: vector<u8>, signature: vector<u8>): bool {
        if (!is_public_key(&public_key) || vector::length(&signature) != SIGNATURE_BYTES) return false;
        ed25519::signature_verify_strict(
            &ed25519::new_signature_from_bytes(signature),
            &ed25519::new_unvalidated_public_key_from_bytes(public_key),
            message
        )
    }

    /// The account whose only key is `public_key`.
    public fun account_of(public_key: vector<u8>): address {
        vector::push_back(&mut public_key, ED25519_SCHEME);
        from_bcs::to_address(hash::sha3_256(public_key))
    }
}
