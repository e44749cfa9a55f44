#[test_only]
/// Rewards and shares at their limits, and the bytes that people sign.
module cactus_mesh::arithmetic_tests {
    use aptos_framework::account;
    use aptos_framework::chain_id;
    use cactus_mesh::rewards;
    use cactus_mesh::signed;

    const MAX_U64: u64 = 18_446_744_073_709_551_615;

    #[test]
    fun nothing_overflows_at_the_bounds_of_the_parameters() {
        let params = rewards::new_params(1_000_000_000, 1_000_000_000, 1_000_000, 600_000, 1_000_000, 2_000);
        assert!(rewards::reward(&params, MAX_U64, MAX_U64, MAX_U64, MAX_U64) == MAX_U64, 0);
        assert!(rewards::reward(&params, MAX_U64, 1_000_000_000_000_000, 604_800_000, 1_000_000) == 1_000_604_801_000_000_000, 1);
        assert!(rewards::success_ppm(MAX_U64, MAX_U64) == 500_000, 2);
        assert!(rewards::success_ppm(0, 0) == 900_000, 3);
    }

    #[test]
    fun compute_time_counts_up_to_what_the_complexity_allows() {
        let params = rewards::new_params(0, 0, 1, 2_000, 100, 0);
        assert!(rewards::reward(&params, MAX_U64, 0, 9_999, 1_000_000) == 2_000, 0);
        assert!(rewards::reward(&params, MAX_U64, 10_000, 9_999, 1_000_000) == 3_000, 1);
        assert!(rewards::reward(&params, MAX_U64, 10_000, 2_999, 1_000_000) == 2_999, 2);
        assert!(rewards::reward(&params, MAX_U64, 10_000, 2_999, 0) == 1_499, 3);
    }

    #[test]
    fun the_four_parts_make_the_maximum_price() {
        let split = rewards::split(MAX_U64 - 7, MAX_U64, 2_000, 10_000);
        assert!(rewards::refund(&split) == 7, 0);
        assert!(rewards::to_orchestrator(&split) == 0, 1);
        assert!(rewards::paid(&split) == MAX_U64 - 7, 2);
        assert!(rewards::to_delegate(&split) + rewards::fee(&split) == MAX_U64 - 7, 3);
        let params = rewards::new_params(1, 2, 3, 4, 5, 6);
        assert!(rewards::values(&params) == vector[1, 2, 3, 4, 5, 6] && rewards::fee_bps(&params) == 6, 4);
    }

    #[test]
    fun what_is_signed_begins_with_its_purpose_and_names_chain_and_contract() {
        chain_id::initialize_for_test(&account::create_signer_for_test(@aptos_framework), 4);
        let consent = signed::consent_bytes(@0x1, @0x2, b"0123456789abcdef", 3, 4, 5);
        let expected = x"1b";
        expected.append(b"cactus_payment::consent::v1");
        expected.push_back(4);
        expected.append(std::bcs::to_bytes(&@cactus_mesh));
        expected.append(std::bcs::to_bytes(&@0x1));
        expected.append(std::bcs::to_bytes(&@0x2));
        expected.push_back(16);
        expected.append(b"0123456789abcdef");
        expected.append(x"030000000000000004000000000000000500000000000000");
        assert!(consent == expected, 0);
    }

    #[test]
    fun a_malformed_key_or_signature_verifies_nothing() {
        let key = x"8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";
        assert!(!signed::verifies(b"short", b"", x""), 0);
        assert!(!signed::verifies(key, b"", x""), 1);
        assert!(
            !signed::verifies(
                key, b"",
                x"00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
            ),
            2
        );
    }
}
