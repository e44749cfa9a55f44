/// The parts of Aptos's standard library that the contract and its tests need.
module aptos_std::from_bcs {
    native fun from_bytes<T>(bytes: vector<u8>): T;

    public fun to_address(v: vector<u8>): address {
        from_bytes<address>(v)
    }
}

module aptos_std::table {
    struct Table<phantom K: copy + drop, phantom V> has store { handle: address }

    struct Box<V> has key, drop, store { val: V }

    public fun new<K: copy + drop, V: store>(): Table<K, V> {
        Table { handle: new_table_handle<K, V>() }
    }

    public fun add<K: copy + drop, V>(self: &mut Table<K, V>, key: K, val: V) {
        add_box<K, V, Box<V>>(self, key, Box { val });
    }

    public fun borrow<K: copy + drop, V>(self: &Table<K, V>, key: K): &V {
        &borrow_box<K, V, Box<V>>(self, key).val
    }

    public fun borrow_mut<K: copy + drop, V>(self: &mut Table<K, V>, key: K): &mut V {
        &mut borrow_box_mut<K, V, Box<V>>(self, key).val
    }

    public fun contains<K: copy + drop, V>(self: &Table<K, V>, key: K): bool {
        contains_box<K, V, Box<V>>(self, key)
    }

    native fun new_table_handle<K, V>(): address;

    native fun add_box<K: copy + drop, V, B>(table: &mut Table<K, V>, key: K, val: Box<V>);

    native fun borrow_box<K: copy + drop, V, B>(table: &Table<K, V>, key: K): &Box<V>;

    native fun borrow_box_mut<K: copy + drop, V, B>(table: &mut Table<K, V>, key: K): &mut Box<V>;

    native fun contains_box<K: copy + drop, V, B>(table: &Table<K, V>, key: K): bool;
}

module aptos_std::ed25519 {
    use std::vector;
    #[test_only]
    use aptos_framework::account;

    const E_WRONG_PUBKEY_SIZE: u64 = 0x10001;
    const E_WRONG_SIGNATURE_SIZE: u64 = 0x10002;

    struct UnvalidatedPublicKey has copy, drop, store { bytes: vector<u8> }

    struct ValidatedPublicKey has copy, drop, store { bytes: vector<u8> }

    struct Signature has copy, drop, store { bytes: vector<u8> }

    public fun new_unvalidated_public_key_from_bytes(bytes: vector<u8>): UnvalidatedPublicKey {
        assert!(vector::length(&bytes) == 32, E_WRONG_PUBKEY_SIZE);
        UnvalidatedPublicKey { bytes }
    }

    public fun new_signature_from_bytes(bytes: vector<u8>): Signature {
        assert!(vector::length(&bytes) == 64, E_WRONG_SIGNATURE_SIZE);
        Signature { bytes }
    }

    public fun signature_verify_strict(
        signature: &Signature, public_key: &UnvalidatedPublicKey, message: vector<u8>
    ): bool {
        verify_internal(message, public_key.bytes, signature.bytes)
    }

    public fun validated_public_key_to_bytes(pk: &ValidatedPublicKey): vector<u8> {
        pk.bytes
    }

    public fun signature_to_bytes(sig: &Signature): vector<u8> {
        sig.bytes
    }

    native fun verify_internal(message: vector<u8>, public_key: vector<u8>, signature: vector<u8>): bool;

    #[test_only]
    struct SecretKey has drop { bytes: vector<u8> }

    #[test_only]
    struct Generated has key { count: u64 }

    #[test_only]
    native fun sign(message: vector<u8>, secret_key: vector<u8>): vector<u8>;

    #[test_only]
    public fun sign_arbitrary_bytes(sk: &SecretKey, msg: vector<u8>): Signature {
        Signature { bytes: sign(msg, sk.bytes) }
    }

    #[test_only]
    /// Always the same pairs in the same order: the n-th seed is 32 times the byte n.
    public fun generate_keys(): (SecretKey, ValidatedPublicKey) acquires Generated {
        if (!exists<Generated>(@aptos_std)) {
            move_to(&account::create_signer_for_test(@aptos_std), Generated { count: 0 });
        };
        let generated = borrow_global_mut<Generated>(@aptos_std);
        let public_keys = vector[
            x"8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c",
            x"8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394",
            x"ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1",
            x"ca93ac1705187071d67b83c7ff0efe8108e8ec4530575d7726879333dbdabe7c",
            x"6e7a1cdd29b0b78fd13af4c5598feff4ef2a97166e3ca6f2e4fbfccd80505bf1",
            x"8a875fff1eb38451577acd5afee405456568dd7c89e090863a0557bc7af49f17",
            x"ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
            x"1398f62c6d1a457c51ba6a4b5f3dbd2f69fca93216218dc8997e416bd17d93ca",
            x"fd1724385aa0c75b64fb78cd602fa1d991fdebf76b13c58ed702eac835e9f618",
            x"43a72e714401762df66b68c26dfbdf2682aaec9f2474eca4613e424a0fbafd3c",
            x"66be7e332c7a453332bd9d0a7f7db055f5c5ef1a06ada66d98b39fb6810c473a",
            x"0b513ad9b4924015ca0902ed079044d3ac5dbec2306f06948c10da8eb6e39f2d"
        ];
        let bytes = *vector::borrow(&public_keys, generated.count);
        generated.count = generated.count + 1;
        let seed = vector[];
        for (i in 0..32) {
            vector::push_back(&mut seed, (generated.count as u8));
        };
        (SecretKey { bytes: seed }, ValidatedPublicKey { bytes })
    }
}
